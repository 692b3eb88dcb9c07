package supportbundle

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/grpc"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
)

// ClusterOptions of Cluster.
type ClusterOptions struct {
	// Status returns what `kijabi status -o json` prints. Nil where there is no access to ask with.
	Status func(ctx context.Context) (any, error)
	// Connect returns a connection to any master. Required.
	Connect func(ctx context.Context) (*grpc.ClientConn, error)
	// Metrics returns what masters count, in Prometheus' text format, by their names; what
	// could not be had is in the error. Nil where there is no access to ask with.
	Metrics func(ctx context.Context) (map[string][]byte, error)
	// Node restricts the objects to a node's own, which are all that it may see. Empty for all.
	Node string
}

// objectLimit bounds how many objects of a kind are asked for.
const objectLimit = 2000

// Cluster returns the collectors of what a master tells.
func Cluster(o ClusterOptions) []Collector {
	var collectors []Collector
	if o.Status != nil {
		collectors = append(collectors, Collector{Name: "status of the cluster", Collect: func(ctx context.Context) ([]Entry, error) {
			status, err := o.Status(ctx)
			if err != nil {
				return nil, err
			}
			entry, err := JSON("cluster/status.json", status)
			return []Entry{entry}, err
		}})
	}
	if o.Metrics != nil {
		collectors = append(collectors, Collector{Name: "metrics of masters", Collect: func(ctx context.Context) ([]Entry, error) {
			metrics, err := o.Metrics(ctx)
			entries := make([]Entry, 0, len(metrics))
			for _, master := range slices.Sorted(maps.Keys(metrics)) {
				entries = append(entries, Entry{Path: "cluster/metrics-" + master + ".txt", Content: metrics[master]})
			}
			return entries, err
		}})
	}
	return append(collectors, Collector{Name: "objects of the cluster", Collect: o.objects})
}

// collected reports whether objects of a kind are. Events exist in two groups, of which
// one suffices; those without a list are never stored.
func collected(kind object.Kind) bool {
	return kind.NewList != nil && kind.GVR.Resource != "secrets" && !kind.View
}

func (o ClusterOptions) objects(ctx context.Context) ([]Entry, error) {
	conn, err := o.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	api := client.New(conn)
	var entries []Entry
	var errs []error
	for _, kind := range object.Kinds() {
		options := client.ListOptions{Limit: objectLimit}
		selector, ofNode := map[string]string{"pods": "spec.nodeName=", "nodes": "metadata.name="}[kind.GVR.Resource]
		if !collected(kind) || o.Node != "" && !ofNode {
			continue
		}
		if o.Node != "" {
			options.FieldSelector = selector + o.Node
		}
		objects, err := api.ListKind(ctx, kind, options)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", kind.GVR.Resource, err))
			continue
		}
		entry, err := pack("cluster/"+kind.GVR.Resource+".json", objects)
		errs = append(errs, err)
		entry.Cut = entry.Cut || len(objects) == objectLimit
		entries = append(entries, entry)
	}
	if o.Node != "" {
		errs = append(errs, errors.New("a node may list only its own; make another bundle on a master"))
	}
	return entries, errors.Join(errs...)
}

// pack writes a JSON list of as many objects as an entry may hold.
func pack(path string, objects []object.Object) (Entry, error) {
	entry := Entry{Path: path}
	var text bytes.Buffer
	text.WriteByte('[')
	for i, obj := range objects {
		content, err := sanitize(obj)
		if err != nil {
			return entry, fmt.Errorf("%s %s: %w", path, object.KeyOf(obj), err)
		}
		const closing = 3
		if text.Len()+len(content)+closing > entryLimit {
			entry.Cut = true
			break
		}
		if i > 0 {
			text.WriteByte(',')
		}
		text.WriteString("\n")
		text.Write(content)
	}
	text.WriteString("\n]\n")
	entry.Content = text.Bytes()
	return entry, nil
}

// sanitize encodes an object without what may be secret in it.
func sanitize(obj object.Object) ([]byte, error) {
	encoded, err := json.Marshal(obj)
	if err != nil {
		return nil, err
	}
	var fields map[string]any
	if err := json.Unmarshal(encoded, &fields); err != nil {
		return nil, err
	}
	if metadata, ok := fields["metadata"].(map[string]any); ok {
		delete(metadata, "managedFields")
	}
	if kind, err := object.KindOfObject(obj); err == nil && kind.GVR.Resource == "configmaps" {
		empty(fields["data"])
		empty(fields["binaryData"])
	}
	strip(fields)
	return json.MarshalIndent(fields, "", " ")
}
