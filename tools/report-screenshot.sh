#!/bin/sh
# report-screenshot.sh OUT.png RESULT.json...: opens a report of results in a real browser, without a window, and keeps a picture of its
# beginning. docs/bench-report.png was made so, and docs/bench-ladder.png. DARK=1 has the browser prefer dark colours. Needs chromium
# (or BROWSER); without one it says so and does nothing.
set -eu
out=$1
shift
browser=${BROWSER:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}
if [ -z "$browser" ]; then
	echo "no chromium: no picture" >&2
	exit 0
fi
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
go run ./cmd/sluice bench report --html "$dir/report.html" "$@"
scheme=1
[ -z "${DARK:-}" ] || scheme=0
"$browser" --headless --no-sandbox --disable-gpu --hide-scrollbars --blink-settings=preferredColorScheme=$scheme --user-data-dir="$dir/profile" --window-size="${SIZE:-1240,1130}" \
	--screenshot="$out" "file://$dir/report.html" >/dev/null 2>&1
test -s "$out"
