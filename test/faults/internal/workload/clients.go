// Package workload is what clients do to a cluster while it is broken: some change a few
// objects each in competition with each other, and some write all the time to see when writes
// are acknowledged.
package workload

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/rpc"

	"kijabi.dev/test/faults/internal/history"
)

const (
	// deadline of one operation.
	deadline = 2 * time.Second
	// pace of one client.
	pace = 15 * time.Millisecond
	// KeysPerRound is how many objects the clients compete for at a time. They move to others each
	// round, lest writes of unknown outcome, which may happen at any later time, pile up.
	KeysPerRound = 6
)

// Master is a connection to one master.
type Master struct {
	Name string
	API  *client.Client
}

// Clients are competing clients. Half of them keep to one master each, the others roam.
type Clients struct {
	Namespace string
	Masters   []Master
	Recorder  *history.Recorder
	Seed      uint64
	Pace      *Pace

	round atomic.Int64
	last  atomic.Int64 // client number; a client that does not know what became of its write goes on as another
}

// NextRound has the clients compete for other objects.
func (c *Clients) NextRound(number int) { c.round.Store(int64(number)) }

// Run runs two clients per master until ctx ends.
func (c *Clients) Run(ctx context.Context) {
	var all sync.WaitGroup
	for i := range 2 * len(c.Masters) {
		one := &competitor{clients: c, pick: rand.New(rand.NewPCG(c.Seed, uint64(i))), seen: map[string]object.Object{}} //nolint:gosec // a seed must give the same again
		one.number = int(c.last.Add(1))
		if i < len(c.Masters) {
			one.home = &c.Masters[i]
		}
		all.Go(func() { one.run(ctx) })
	}
	all.Wait()
}

type competitor struct {
	clients *Clients
	pick    *rand.Rand
	home    *Master // nil for one that roams
	number  int
	count   int
	seen    map[string]object.Object // as it last knew them
}

func (c *competitor) run(ctx context.Context) {
	ticker := time.NewTicker(pace)
	defer ticker.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if c.clients.Pace.due(n) {
			c.act(ctx)
		}
	}
}

func (c *competitor) act(ctx context.Context) {
	master := c.home
	if master == nil {
		master = &c.clients.Masters[c.pick.IntN(len(c.clients.Masters))]
	}
	c.count++
	o := history.Operation{
		Client: c.number, Master: master.Name, RequestID: rpc.NewRequestID(),
		Key:   fmt.Sprintf("r%d-%d", c.clients.round.Load(), c.pick.IntN(KeysPerRound)),
		Value: fmt.Sprintf("%d-%d", c.number, c.count),
	}
	call, cancel := context.WithTimeout(rpc.WithRequestID(context.WithoutCancel(ctx), o.RequestID), deadline)
	defer cancel()
	perform := c.choose(&o)
	o.Called = c.clients.Recorder.Now()
	answer, err := perform(call, master.API)
	o.Returned = c.clients.Recorder.Now()
	c.note(o, answer, err)
}

// choose decides what to do with the object.
func (c *competitor) choose(o *history.Operation) func(context.Context, *client.Client) (object.Object, error) {
	key := object.Key{Namespace: c.clients.Namespace, Name: o.Key}
	known := c.seen[o.Key]
	switch n := c.pick.IntN(100); {
	case n < 40 || known == nil && n < 60:
		o.Verb, o.Value = history.Get, ""
		return func(ctx context.Context, api *client.Client) (object.Object, error) {
			return client.Get[*corev1.ConfigMap](ctx, api, key)
		}
	case n < 60 || known == nil:
		o.Verb = history.Create
		return func(ctx context.Context, api *client.Client) (object.Object, error) {
			return api.Create(ctx, configMap(key, o.Value))
		}
	case n < 88:
		o.Verb = history.Update
		cm := configMap(key, o.Value)
		if n < 84 { // else whatever its version
			cm.ResourceVersion = known.GetResourceVersion()
			o.Expected = Version(known)
		}
		return func(ctx context.Context, api *client.Client) (object.Object, error) { return api.Update(ctx, cm) }
	default:
		o.Verb, o.Value = history.Delete, ""
		var opts client.DeleteOptions
		if n < 94 {
			opts.ResourceVersion = known.GetResourceVersion()
			o.Expected = Version(known)
		}
		return func(ctx context.Context, api *client.Client) (object.Object, error) {
			return api.DeleteObject(ctx, configMap(key, ""), opts)
		}
	}
}

func (c *competitor) note(o history.Operation, answer object.Object, err error) {
	o.Outcome = outcome(err)
	switch {
	case o.Outcome == history.OK:
		o.Version = Version(answer)
		if cm, ok := answer.(*corev1.ConfigMap); ok && o.Verb == history.Get {
			o.Read = cm.Data["value"]
		}
		if c.seen[o.Key] = answer; o.Verb == history.Delete {
			delete(c.seen, o.Key)
		}
	case o.Outcome == history.Unknown:
		o.Error = err.Error()
		if o.Verb == history.Get {
			return
		}
		c.number = int(c.clients.last.Add(1))
	case o.Outcome == history.NotFound || o.Outcome == history.Conflict:
		delete(c.seen, o.Key)
	}
	c.clients.Recorder.Add(o)
}

func outcome(err error) history.Outcome {
	switch {
	case err == nil:
		return history.OK
	case apierrors.IsNotFound(err):
		return history.NotFound
	case apierrors.IsAlreadyExists(err):
		return history.Exists
	case apierrors.IsConflict(err):
		return history.Conflict
	}
	return history.Unknown
}

func configMap(key object.Key, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name},
		Data:       map[string]string{"value": value},
	}
}

// Version of an object as a number.
func Version(obj object.Object) uint64 { return ParseVersion(obj.GetResourceVersion()) }

// ParseVersion reads a resource version; what is none is 0.
func ParseVersion(text string) uint64 {
	version, _ := strconv.ParseUint(text, 10, 64)
	return version
}
