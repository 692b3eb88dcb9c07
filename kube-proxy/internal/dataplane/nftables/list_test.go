package nftables

import (
	"os/exec"
	"strings"
	"testing"

	"kijabi.dev/kube-proxy/internal/dataplane/dataplanetest"
	"kijabi.dev/kube-proxy/internal/services"
)

// TestListable has the nft program list the table, as administrators do: versions of it
// crash on rules that the kernel takes. Where there is no such program, nobody uses it.
func TestListable(t *testing.T) {
	program, err := exec.LookPath("nft")
	if err != nil {
		t.Logf("not checked: %v", err)
		return
	}
	w := dataplanetest.NewWorld(t)
	p := dataplanetest.Start(t, w, open)
	split := dataplanetest.Frontend("0.0.0.0:30080", services.TCP, dataplanetest.PodAIP+":8080", dataplanetest.Node2IP+":8080")
	split.Inside, split.SplitInside, split.Sticky = dataplanetest.Endpoints(dataplanetest.PodBIP+":8080"), true, true
	if err := p.Sync(dataplanetest.Full(split, dataplanetest.Frontend("10.96.0.20:80", services.TCP, dataplanetest.PodAIP+":8080"),
		dataplanetest.Frontend("10.96.0.21:80", services.UDP))); err != nil {
		t.Fatalf("sync: %v", err)
	}
	w.Node.Must(t, func() error {
		out, err := exec.CommandContext(t.Context(), program, "list", "ruleset").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "table ip "+TableName) {
			t.Errorf("nft list ruleset: %v\n%s", err, out)
		}
		return nil
	})
}
