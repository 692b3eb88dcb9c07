package watchcheck

import (
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"kijabi.dev/platform/kube/client"
)

// message shows events, given as "ADDED a 5", and how far they reach.
func message(t *testing.T, progress uint64, events ...string) client.WatchMessage[*corev1.ConfigMap] {
	t.Helper()
	m := client.WatchMessage[*corev1.ConfigMap]{Progress: strconv.FormatUint(progress, 10)}
	for _, text := range events {
		parts := strings.Fields(text)
		m.Events = append(m.Events, client.Event[*corev1.ConfigMap]{
			Type:   watch.EventType(parts[0]),
			Object: &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: parts[1], ResourceVersion: parts[2]}},
		})
	}
	return m
}

func TestCheck(t *testing.T) {
	truth := []Change{{"a", 5, false}, {"b", 7, false}, {"a", 8, false}, {"b", 9, true}}
	for name, c := range map[string]struct {
		gaps     []span
		messages []client.WatchMessage[*corev1.ConfigMap]
		wrong    string
	}{
		"everything": {nil, []client.WatchMessage[*corev1.ConfigMap]{
			message(t, 7, "ADDED a 5", "ADDED b 7"), message(t, 9, "MODIFIED a 8", "DELETED b 9"),
		}, ""},
		"not yet everything": {nil, []client.WatchMessage[*corev1.ConfigMap]{message(t, 7, "ADDED a 5", "ADDED b 7")}, ""},
		"one is missing":     {nil, []client.WatchMessage[*corev1.ConfigMap]{message(t, 9, "ADDED a 5", "ADDED b 7", "DELETED b 9")}, "never shown"},
		"a list was in between": {[]span{{7, 8}}, []client.WatchMessage[*corev1.ConfigMap]{
			message(t, 0, "ADDED a 5", "ADDED b 7"), message(t, 9, "DELETED b 9"),
		}, ""},
		"out of order": {nil, []client.WatchMessage[*corev1.ConfigMap]{
			message(t, 9, "ADDED b 7", "ADDED a 5", "MODIFIED a 8", "DELETED b 9"),
		}, "after version"},
		"shown again": {nil, []client.WatchMessage[*corev1.ConfigMap]{
			message(t, 7, "ADDED a 5", "ADDED b 7"), message(t, 9, "ADDED b 7", "MODIFIED a 8", "DELETED b 9"),
		}, "after version"},
		"older than the progress": {nil, []client.WatchMessage[*corev1.ConfigMap]{
			message(t, 8, "ADDED a 5"), message(t, 9, "ADDED b 7"),
		}, "after version"},
		"what never happened": {nil, []client.WatchMessage[*corev1.ConfigMap]{message(t, 7, "ADDED a 5", "ADDED c 6", "ADDED b 7")}, "never happened"},
		"of a wrong type":     {nil, []client.WatchMessage[*corev1.ConfigMap]{message(t, 5, "MODIFIED a 5")}, "existed: false"},
	} {
		t.Run(name, func(t *testing.T) {
			w := &Watcher{Master: "m", objects: map[string]uint64{}, gaps: c.gaps}
			for _, m := range c.messages {
				if err := w.take(m); err != nil {
					t.Fatal(err)
				}
			}
			result := strings.Join(w.Check(truth).Violations, "\n")
			if (result == "") != (c.wrong == "") || !strings.Contains(result, c.wrong) {
				t.Errorf("violations %q, want one with %q", result, c.wrong)
			}
		})
	}
}
