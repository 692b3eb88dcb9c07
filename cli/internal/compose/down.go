package compose

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// Down removes the demo: containers, network, volumes, and the user's access. It goes by
// the engine's labels, so that it also removes what other profiles or a start that was
// cut off have made. The images stay.
func Down(ctx context.Context, o Options) error {
	if o.Timeout == 0 {
		o.Timeout = 3 * time.Minute
	}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
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
		// The engine may refuse for a moment: a container with many processes takes its
		// time to end, and so does a volume in memory.
		err := o.Progress.Wait(ctx, "no "+kind.what+" left", func(ctx context.Context) error {
			found, err := e.run(ctx, append(kind.list, "--filter", byProject)...)
			if err != nil {
				return fmt.Errorf("list %s: %w", kind.what, err)
			}
			names := strings.Fields(found)
			if len(names) == 0 {
				return nil
			}
			if _, err := e.run(ctx, append(kind.remove, names...)...); err != nil {
				return fmt.Errorf("remove %s: %w", kind.what, err)
			}
			return fmt.Errorf("%d %s are being removed", len(names), kind.what)
		})
		if err != nil {
			return fmt.Errorf("%w: run this again", err)
		}
	}
	return o.Home.Forget(Cluster)
}
