package compose

import (
	"context"
	"fmt"
	"strings"
)

// Down removes the demo: containers, network, volumes, and the user's access. It goes by
// the engine's labels, so that it also removes what other profiles or a start that was
// cut off have made. The images stay.
func Down(ctx context.Context, o Options) error {
	e, err := findEngine(ctx)
	if err != nil {
		return err
	}
	for _, kind := range []struct {
		what         string
		list, remove []string
	}{
		{"containers", []string{"ps", "--all", "--quiet"}, []string{"rm", "--force", "--volumes"}},
		{"networks", []string{"network", "ls", "--quiet"}, []string{"network", "rm"}},
		{"volumes", []string{"volume", "ls", "--quiet"}, []string{"volume", "rm"}},
	} {
		found, err := e.run(ctx, append(kind.list, "--filter", byProject)...)
		if err != nil {
			return fmt.Errorf("list %s: %w", kind.what, err)
		}
		names := strings.Fields(found)
		if len(names) > 0 {
			if _, err := e.run(ctx, append(kind.remove, names...)...); err != nil {
				return fmt.Errorf("remove %s: %w: run this again", kind.what, err)
			}
		}
		o.Progress.Say("%d %s removed", len(names), kind.what)
	}
	return o.Home.Forget(Cluster)
}
