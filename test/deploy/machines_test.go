package deploy

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// addresses of the fleet's machines.
func addresses() map[string]string {
	return map[string]string{
		"master-1": "10.102.0.11", "master-2": "10.102.0.12", "master-3": "10.102.0.13",
		"node-1": "10.102.0.21", "node-2": "10.102.0.22",
	}
}

// machineView is one entry of `kijabi machine list -o json`.
type machineView struct {
	Name  string `json:"name"`
	Units []struct {
		Name string `json:"name"`
		PID  int    `json:"pid"`
	} `json:"units"`
}

// machines starts the fleet, each machine with an SSH server that lets the laptop in.
func (l *laptop) machines(t *testing.T) {
	t.Helper()
	l.kijabi(t, "down", "--name", fleet) // what an earlier run may have left
	t.Cleanup(func() {
		if os.Getenv("KIJABI_E2E_KEEP") != "" {
			t.Logf("KIJABI_E2E_KEEP is set: fleet %s stays; HOME=%s", fleet, l.home)
			return
		}
		if result := l.try(t, "down", "--name", fleet); result.code != 0 {
			t.Error(result)
		}
	})
	l.kijabi(t, "up", "--bare", "--name", fleet, "--subnet", subnet, "--masters", "3", "--nodes", "2")
	allowed := makeKey(t, l.path("key"))
	for name := range addresses() {
		l.prepareSSH(t, name, allowed)
		l.startSSH(t, name)
	}
}

// machineDir is a directory that a machine sees under the same path as the host.
func machineDir(name string) string {
	return filepath.Join("/var/lib/kijabi-up", fleet, "machines", name, "ssh")
}

// prepareSSH writes what the machine's SSH server needs, and the users it knows.
func (l *laptop) prepareSSH(t *testing.T, name, allowed string) {
	t.Helper()
	dir := machineDir(name)
	if err := os.MkdirAll(filepath.Join(dir, "opt"), 0o755); err != nil {
		t.Fatal(err)
	}
	makeKey(t, filepath.Join(dir, "host"))
	for file, content := range map[string]string{
		"passwd": "root:x:0:0::/root:/bin/sh\nsshd:x:65533:65534::/run/sshd:/bin/false\n",
		"shadow": "root:*:19000::::::\nsshd:*:19000::::::\n",
		"keys":   allowed,
		"config": strings.ReplaceAll("HostKey DIR/host\nAuthorizedKeysFile DIR/keys\nPidFile none\nStrictModes no\nUsePAM no\n"+
			"PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n", "DIR", dir),
	} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"passwd", "keys"} {
		if err := os.Chmod(filepath.Join(dir, file), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// A machine sees the host's files, except for those in /tmp, where this may be.
	for _, from := range sshd(t) {
		content, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(from)), content, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// startSSH starts the server after the machine has started.
func (l *laptop) startSSH(t *testing.T, name string) {
	t.Helper()
	l.inside(t, name, `set -e
mount --bind "$1/opt" /opt
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/shadow" /etc/shadow
mkdir -p /run/sshd
LD_LIBRARY_PATH=$1 "$1/sshd" -f "$1/config"`, machineDir(name))
}

// sshd finds the program and libraries that it may lack: $KIJABI_SSHD, the system's, or
// the one that deploy/deps.sh unpacks.
func sshd(t *testing.T) []string {
	t.Helper()
	cache, err := filepath.Abs("../../.cache/debian")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{os.Getenv("KIJABI_SSHD"), "/usr/sbin/sshd", filepath.Join(cache, "usr/sbin/sshd")} {
		if _, err := os.Stat(path); path != "" && err == nil {
			libraries, _ := filepath.Glob(filepath.Join(cache, "usr/lib/*-linux-*/lib*.so.*"))
			return append([]string{path}, libraries...)
		}
	}
	t.Fatal("there is no sshd: run `sh deploy/deps.sh test`, or name one by KIJABI_SSHD")
	return nil
}

// running returns the process of each program, as "machine/program".
func (l *laptop) running(t *testing.T) map[string]int {
	t.Helper()
	var views []machineView
	if err := json.Unmarshal([]byte(l.kijabi(t, "machine", "list", "--name", fleet, "-o", "json")), &views); err != nil {
		t.Fatal(err)
	}
	all := map[string]int{}
	for _, view := range views {
		for _, unit := range view.Units {
			all[view.Name+"/"+unit.Name] = unit.PID
		}
	}
	return all
}

// clean looks for what is left of an installation in a machine.
func (l *laptop) clean(t *testing.T, name string) {
	t.Helper()
	left := l.inside(t, name, `find /etc/kijabi /opt -mindepth 1 | head; find /var/lib/kijabi -name member.json -o -name '*.key' | head
grep -h kijabi /proc/net/dev; grep /var/lib/kijabi/ /proc/self/mountinfo; true`)
	if strings.TrimSpace(left) != "" {
		t.Errorf("left in machine %s:\n%s", name, left)
	}
	for program := range l.running(t) {
		if strings.HasPrefix(program, name+"/") {
			t.Errorf("left in machine %s: unit %s", name, program)
		}
	}
}
