package app

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/rpc"
	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"
)

// rewrite changes a file in place.
func rewrite(t *testing.T, file string, change func(content []byte) []byte) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, change(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func database(p string) string { return filepath.Join(p, "member", "snap", "db") }

// TestDamagedDataIsRebuilt damages what a follower has stored while it is down. It is started again
// whenever it ends, as by a service manager, and comes back as it was, by itself.
func TestDamagedDataIsRebuilt(t *testing.T) {
	c := newTrio(t)
	create := func(name string) {
		t.Helper()
		c.eventually("create "+name, func() error {
			a, err := c.ask(c.masters[0], http.MethodPost, configMaps, configMapNamed(name))
			if err == nil && a.code != http.StatusCreated {
				err = fmt.Errorf("%d %s", a.code, a.body)
			}
			return err
		})
	}
	logs := func(dir string) string {
		t.Helper()
		found, err := filepath.Glob(filepath.Join(dir, "member", "wal", "*.wal"))
		if err != nil || len(found) == 0 {
			t.Fatalf("logs %v: %v", found, err)
		}
		return found[len(found)-1]
	}
	for _, round := range []struct {
		name   string
		damage func(dir string)
	}{
		{"value", func(dir string) {
			rewrite(t, database(dir), func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("precious-value"), []byte("precious-valuf")) })
		}},
		{"log", func(dir string) {
			rewrite(t, logs(dir), func(b []byte) []byte { b[bytes.LastIndex(b, []byte("precious-log"))] ^= 1; return b })
		}},
		{"page", func(dir string) {
			rewrite(t, database(dir), func(b []byte) []byte {
				for at := 2 * os.Getpagesize(); at < len(b); at += os.Getpagesize() {
					b[at+8] ^= 0x20 // the kind of page
				}
				return b
			})
		}},
		{"disk", func(dir string) {
			if err := os.WriteFile(filepath.Join(dir, "failed"), []byte(syscall.EIO.Error()), 0o600); err != nil {
				t.Fatal(err)
			}
		}},
		{"raft", func(dir string) {
			rewrite(t, filepath.Join(filepath.Dir(dir), "raft", "raft.db"), func(b []byte) []byte { return b[:8<<10] })
		}},
	} {
		create("precious-" + round.name)
		_, leader, err := c.status(c.masters[0])
		c.must(err)
		victim := c.masters[2]
		if leader == victim.cfg.NodeName {
			victim = c.masters[1]
		}
		path := configMaps + "/precious-" + round.name
		c.eventually("the victim has it", func() error { return c.answers(victim, path, http.StatusOK) })
		// Etcd commits to its file every 100 ms, and its log is the truth before.
		c.eventually("it is in the file", func() error {
			content, err := os.ReadFile(database(etcdDir(victim.cfg)))
			if err == nil && !bytes.Contains(content, []byte("precious-"+round.name)) {
				err = errors.New("it is not")
			}
			return err
		})
		victim.kill()
		began := time.Now()
		round.damage(etcdDir(victim.cfg))
		victim.start(t)
		c.eventually(round.name+": the victim votes with new data", func() error {
			if errors.Is(victim.cmd.Process.Signal(syscall.Signal(0)), os.ErrProcessDone) {
				victim.start(t)
			}
			if aside, _ := filepath.Glob(filepath.Join(etcdDir(victim.cfg), "aside-*-damaged")); len(aside) != 1 {
				return fmt.Errorf("moved aside: %v", aside)
			}
			members, _, err := c.status(c.masters[0])
			for _, m := range members {
				if m.GetRole() != mastersv1pb.MemberRole_MEMBER_ROLE_VOTER || !m.GetAlive() {
					err = errors.Join(err, fmt.Errorf("%s is %s", m.GetName(), m.GetRole()))
				}
			}
			if len(members) != 3 {
				err = errors.Join(err, fmt.Errorf("%d masters", len(members)))
			}
			return errors.Join(err, c.answers(victim, path, http.StatusOK), c.answers(victim, "/readyz", http.StatusOK))
		})
		t.Logf("%s: rebuilt in %s", round.name, time.Since(began).Round(time.Millisecond))
		for _, p := range c.masters[1:] {
			aside, _ := filepath.Glob(filepath.Join(etcdDir(p.cfg), "aside-*-damaged"))
			for _, folder := range aside {
				c.must(os.RemoveAll(folder))
			}
		}
	}
}

// garble makes an object that cannot be read of a stored one, in a database that nobody uses.
func garble(t *testing.T, dir, name string) {
	t.Helper()
	rewrite(t, database(dir), func(b []byte) []byte {
		key, n := []byte("/o/configmaps/default/"+name), 0
		for at := 0; ; n++ {
			i := bytes.Index(b[at:], key)
			if i < 0 {
				break
			}
			at += i + len(key)
			// The object's encoding begins with its metadata, and that with its name.
			if j := bytes.Index(b[at:at+64], []byte(name)); j >= 0 {
				copy(b[at+j-4:], bytes.Repeat([]byte{0xff}, len(name)+4))
			}
		}
		if n == 0 {
			t.Fatalf("%s is not in the database", name)
		}
		return b
	})
}

// TestUnreadableObjectIsDeleted lets objects become garbage. Others are served, they are named, and
// can be deleted through both doors, and written anew.
func TestUnreadableObjectIsDeleted(t *testing.T) {
	c := newCluster(t)
	cfg := c.master("m1", "127.0.0.1")
	cfg.ListenAddress, cfg.RESTAddress, cfg.PeerAddress, cfg.Etcd.PeerURL = free(t), free(t), free(t), "https://"+free(t)
	ask := asker{t, c.client()}
	stop := supervise(t, cfg)
	names := []string{"garbled-rest", "garbled-grpc", "garbled-anew"}
	for _, name := range append([]string{"whole"}, names...) {
		ask.write(cfg, name)
	}
	stop()
	for _, name := range names {
		garble(t, etcdDir(cfg), name)
	}
	supervise(t, cfg)
	list := ask.until("list", cfg, "GET", configMaps, "", http.StatusOK)
	if !strings.Contains(list, `"whole"`) || strings.Contains(list, "garbled") {
		t.Errorf("listed: %s", list)
	}
	conn, err := rpc.Dial(cfg.ListenAddress, c.admin())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	warnings := func() string {
		status, err := mastersv1pb.NewMastersServiceClient(conn).Status(t.Context(), &mastersv1pb.StatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(status.GetWarnings(), "\n")
	}
	for _, name := range names {
		for deadline := time.Now().Add(20 * time.Second); !strings.Contains(warnings(), "configmaps default/"+name+" cannot be read"); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s is not named in %q", name, warnings())
			}
		}
	}
	if code, text := ask.call(cfg, "DELETE", configMaps+"/garbled-rest?dryRun=All", ""); code != http.StatusOK {
		t.Errorf("deleted on trial: %d %s", code, text)
	}
	if code, text := ask.call(cfg, "DELETE", configMaps+"/garbled-rest", ""); code != http.StatusOK {
		t.Errorf("deleted: %d %s", code, text)
	}
	if code, text := ask.call(cfg, "DELETE", configMaps+"/garbled-rest", ""); code != http.StatusNotFound {
		t.Errorf("deleted again: %d %s", code, text)
	}
	garbled := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "garbled-grpc"}}
	if err := client.New(conn).Delete(t.Context(), garbled, client.DeleteOptions{}); err != nil {
		t.Errorf("deleted over gRPC: %v", err)
	}
	ask.write(cfg, "garbled-anew")
	if text := warnings(); text != "" {
		t.Errorf("afterwards there are warnings: %q", text)
	}
}

// TestFullStore fills the data store of a cluster. Clients learn why, can delete, and can write again
// once that has made room.
func TestFullStore(t *testing.T) {
	c := newCluster(t)
	cfg := c.master("m1", "127.0.0.1")
	cfg.ListenAddress, cfg.RESTAddress, cfg.PeerAddress, cfg.Etcd.PeerURL = free(t), free(t), free(t), "https://"+free(t)
	cfg.Etcd.QuotaBytes = 24 << 20
	ask := asker{t, c.client()}
	supervise(t, cfg)
	ask.write(cfg, "first")
	large := func(i int) (int, string) {
		t.Helper()
		return ask.call(cfg, "POST", configMaps, fmt.Sprintf(`{"metadata":{"name":"large-%d"},"data":{"k":%q}}`, i, strings.Repeat("x", 500<<10)))
	}
	n := 0 // created
	code, text := large(n)
	for ; code == http.StatusCreated && n < 200; code, text = large(n) {
		n++
	}
	if code != http.StatusInsufficientStorage || !strings.Contains(text, `"reason":"InsufficientStorage"`) || !strings.Contains(text, "etcd.quotaBytes") {
		t.Fatalf("after %d objects: %d %s", n, code, text)
	}
	conn, err := rpc.Dial(cfg.ListenAddress, c.admin())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, err = client.New(conn).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "small"}})
	if apierrors.ReasonForError(err) != "InsufficientStorage" {
		t.Errorf("created over gRPC: %v", err)
	}
	if code, text := ask.call(cfg, "GET", configMaps+"/first", ""); code != http.StatusOK {
		t.Errorf("read: %d %s", code, text)
	}
	// The first refusal may have been that of a moment, after which forgotten history made room.
	var metrics string
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(metrics, "kijabi_store_full 1\n") && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if code, _ := large(n); code == http.StatusCreated {
			n++
		}
		metrics = ask.until("metrics", cfg, "GET", "/metrics", "", http.StatusOK)
	}
	for _, line := range []string{"kijabi_store_full 1\n", `kijabi_database_limit_bytes{master="m1"} 2.5165824e+07`, `kijabi_database_in_use_bytes{master="m1"}`, `kijabi_disk_free_bytes{master="m1"}`} {
		if !strings.Contains(metrics, line) {
			t.Errorf("metrics lack %s", line)
		}
	}
	for i := range n {
		if code, text := ask.call(cfg, "DELETE", fmt.Sprintf("%s/large-%d", configMaps, i), ""); code != http.StatusOK {
			t.Fatalf("deleted: %d %s", code, text)
		}
	}
	ask.write(cfg, "after")
}

// TestFullDisk has somebody else fill up the disk of the only master. It goes on answering, deletes,
// and writes again once there is room.
func TestFullDisk(t *testing.T) {
	c := newCluster(t)
	cfg := c.master("m1", "127.0.0.1")
	cfg.ListenAddress, cfg.RESTAddress, cfg.PeerAddress, cfg.Etcd.PeerURL = free(t), free(t), free(t), "https://"+free(t)
	if err := syscall.Mount("tmpfs", cfg.DataDir, "tmpfs", 0, "mode=700,size=400m"); err != nil {
		t.Fatalf("mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(cfg.DataDir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	text, err := json.Marshal(cfg)
	c.must(err)
	p := &process{cfg: cfg, file: filepath.Join(c.dir, "m1.yaml")}
	c.must(os.WriteFile(p.file, text, 0o600))
	p.start(t)
	t.Cleanup(p.kill)
	pid := p.cmd.Process.Pid
	ask := asker{t, c.client()}
	for i := range 20 {
		ask.write(cfg, fmt.Sprint("before-", i))
	}
	reserve := filepath.Join(etcdDir(cfg), "reserve")
	awaitFile := func(there bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			if _, err := os.Stat(reserve); (err == nil) == there {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: there is to be one: %t", reserve, there)
			}
		}
	}
	awaitFile(true)
	filler := filepath.Join(cfg.DataDir, "filler")
	f, err := os.Create(filler)
	c.must(err)
	defer func() { _ = f.Close() }()
	for piece := make([]byte, 1<<20); len(piece) > 0; {
		if _, err := f.Write(piece); err != nil {
			piece = piece[:len(piece)/2]
		}
	}
	awaitFile(false)
	refused := ask.until("refused", cfg, "POST", configMaps, `{"metadata":{"generateName":"full-"}}`, http.StatusInsufficientStorage)
	if !strings.Contains(refused, "the disk of m1") {
		t.Errorf("refused with %s", refused)
	}
	for i := range 20 {
		if code, text := ask.call(cfg, "GET", configMaps+"/before-19", ""); i < 19 && code != http.StatusOK {
			t.Fatalf("read: %d %s", code, text)
		}
		if code, text := ask.call(cfg, "DELETE", fmt.Sprint(configMaps, "/before-", i), ""); code != http.StatusOK {
			t.Fatalf("deleted: %d %s", code, text)
		}
	}
	c.must(os.Remove(filler))
	c.must(f.Close())
	ask.write(cfg, "after")
	awaitFile(true)
	if p.cmd.Process.Pid != pid || p.cmd.Process.Signal(syscall.Signal(0)) != nil {
		t.Error("it did not live through it")
	}
}
