// Package tokens holds the service account tokens of the machine's pods: it asks a master
// for them when a volume needs one, and has volumes ask again well before one expires.
package tokens

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
)

// defaultExpiration of a projected token in seconds; documented with ServiceAccountTokenProjection.
const defaultExpiration = 3600

const (
	// renewAt is how much of its life a token has when it is replaced: the share that the
	// documentation of projected tokens names. renewLatest bounds it for long lives.
	renewAt     = 0.8
	renewLatest = 24 * time.Hour
	// renewJitter spreads renewals of pods that started together, as a share of the life.
	renewJitter = 0.05
	// lookEvery is how often expiring tokens are looked for.
	lookEvery = 15 * time.Second
	// forgottenAfter is how long after its time a token that nobody asked for is kept.
	forgottenAfter = 10 * time.Minute
	// requestTimeout bounds one call of a master.
	requestTimeout = 10 * time.Second
)

// Config of a Tokens; every field is required.
type Config struct {
	// Request obtains a token of a service account; it fills in the status.
	Request func(ctx context.Context, namespace, account string, request *authenticationv1.TokenRequest) error
	// Changed is told a pod whose token is due to be replaced: its volumes must be set up again.
	Changed func(uid types.UID)
	Clock   clock.WithTicker
}

// Tokens is safe for concurrent use.
type Tokens struct {
	cfg Config

	mu   sync.Mutex
	held map[key]*held
}

// key tells tokens apart.
type key struct {
	pod      types.UID
	account  string
	audience string
	seconds  int64
}

type held struct {
	token string
	due   time.Time
	told  bool // since due
}

// New returns a Tokens that holds none yet.
func New(cfg Config) *Tokens { return &Tokens{cfg: cfg, held: map[key]*held{}} }

// Token returns a token as a volume of a pod asks for it, bound to the pod. One that is
// held and not due is returned without asking anybody.
func (t *Tokens) Token(ctx context.Context, pod *corev1.Pod, want *corev1.ServiceAccountTokenProjection) (string, error) {
	k := key{pod: pod.UID, account: pod.Spec.ServiceAccountName, audience: want.Audience, seconds: defaultExpiration}
	if want.ExpirationSeconds != nil {
		k.seconds = *want.ExpirationSeconds
	}
	if k.account == "" {
		k.account = "default"
	}
	now := t.cfg.Clock.Now()
	t.mu.Lock()
	if known := t.held[k]; known != nil && now.Before(known.due) {
		t.mu.Unlock()
		return known.token, nil
	}
	t.mu.Unlock()

	request := &authenticationv1.TokenRequest{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: k.account},
		Spec: authenticationv1.TokenRequestSpec{
			ExpirationSeconds: &k.seconds,
			BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
		},
	}
	if k.audience != "" {
		request.Spec.Audiences = []string{k.audience}
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if err := t.cfg.Request(ctx, pod.Namespace, k.account, request); err != nil {
		return "", fmt.Errorf("token of service account %s/%s: %w", pod.Namespace, k.account, err)
	}
	life := request.Status.ExpirationTimestamp.Sub(now)
	after := min(time.Duration(float64(life)*(renewAt-renewJitter*rand.Float64())), renewLatest)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.held[k] = &held{token: request.Status.Token, due: now.Add(after)}
	return request.Status.Token, nil
}

// Run tells of tokens that are due, until ctx ends.
func (t *Tokens) Run(ctx context.Context) error {
	ticker := t.cfg.Clock.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C():
			for _, uid := range t.due(t.cfg.Clock.Now()) {
				t.cfg.Changed(uid)
			}
		}
	}
}

// due returns the pods that have a token to be replaced, each token once, and forgets those
// that are of no use to anybody.
func (t *Tokens) due(now time.Time) []types.UID {
	t.mu.Lock()
	defer t.mu.Unlock()
	var pods []types.UID
	for k, h := range t.held {
		switch {
		case now.Before(h.due):
		case now.Sub(h.due) > forgottenAfter:
			delete(t.held, k)
		case !h.told:
			h.told = true
			pods = append(pods, k.pod)
		}
	}
	return pods
}
