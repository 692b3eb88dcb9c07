package cni

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWrite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "net.d")
	c := Config{Range: netip.MustParsePrefix("10.244.3.0/24"), MTU: 1450, Bridged: true}
	for i, want := range []bool{true, false} {
		if changed, err := Write(dir, c); err != nil || changed != want {
			t.Fatalf("write %d: changed %v, %v, want %v", i, changed, err, want)
		}
	}
	content, err := os.ReadFile(filepath.Join(dir, FileName))
	if err != nil {
		t.Fatal(err)
	}
	var got, want any
	if err := json.Unmarshal(content, &got); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(`{"cniVersion": "1.0.0", "name": "kijabi", "plugins": [{
		"type": "bridge", "bridge": "kijabi0", "isGateway": true, "isDefaultGateway": false, "hairpinMode": true, "ipMasq": false, "mtu": 1450,
		"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.3.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "/run/kijabi/cni"}}]}`), &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("want -, got +\n%s", diff)
	}
	c.Bridged = false
	if changed, err := Write(dir, c); err != nil || !changed {
		t.Errorf("another configuration: changed %v, %v", changed, err)
	}
	for range 2 {
		if err := Remove(dir); err != nil {
			t.Fatal(err)
		}
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 0 {
		t.Errorf("left behind: %v, %v", list, err)
	}
}
