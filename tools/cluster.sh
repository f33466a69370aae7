#!/bin/sh
# Three nodes of one cluster on this machine: tools/cluster.sh BINARY DIR. Ctrl-C drains and ends them. What they have stays in DIR for the next
# time. Clients come in at any node. With a number behind DIR it is that node alone, beside the others: one that was stopped or replaced, or a fourth
# one that was added.
set -eu
bin=$1 dir=$2 alone=${3:-}
first=127.0.0.1:7001 second=127.0.0.1:7002
pids=
mkdir -p "$dir"
trap 'trap - INT TERM EXIT; kill $pids 2>/dev/null; wait' INT TERM EXIT

# start N [--set KEY=VALUE]... starts node N and waits until it is ready: MQTT on 1883, 2883, 3883, Kafka on 9092, 9192, 9292, and so on.
start() {
  n=$1 at=$((1000 * $1 + 883)) by=$((100 * ($1 - 1)))
  shift
  mkdir -p "$dir/$n"
  "$bin" start --data "$dir/$n" --set node.id="$n" --set listeners.cluster=127.0.0.1:700"$n" --set listeners.mqtt.tcp=127.0.0.1:$at \
    --set listeners.mqtt.ws=off --set listeners.kafka.tcp=127.0.0.1:$((9092 + by)) --set listeners.http=127.0.0.1:$((8080 + by)) \
    --set listeners.grpc=127.0.0.1:$((9440 + by)) "$@" >"$dir/$n.out" 2>"$dir/$n.log" &
  pids="$pids $!"
  until grep -q '^ready ' "$dir/$n.out"; do
    kill -0 $! 2>/dev/null || { echo "node $n has ended:" >&2; tail -n 3 "$dir/$n.log" >&2; exit 1; }
    sleep 0.1
  done
  echo "node $n: mqtt 127.0.0.1:$at  kafka 127.0.0.1:$((9092 + by))  http://127.0.0.1:$((8080 + by))  --server 127.0.0.1:$((9440 + by))  $dir/$n.log"
}

if [ -n "$alone" ]; then
  peer=$first
  if [ "$alone" = 1 ]; then peer=$second; fi
  start "$alone" --set cluster.peers=$peer
  echo "Ctrl-C ends it"
  wait
  exit
fi
start 1
for n in 2 3; do
  if [ ! -e "$dir/$n/catalog" ]; then
    "$bin" node add $n --address 127.0.0.1:700$n --server 127.0.0.1:9440 >/dev/null
  fi
  start $n --set cluster.peers=$first
done
echo "three nodes are one broker; Ctrl-C ends them"
wait
