package tokens

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"kijabi.dev/platform/lifecycle"
)

// master issues tokens that count up.
type master struct {
	issued int
	last   *authenticationv1.TokenRequest
	fails  error
}

func (m *master) request(_ context.Context, _, account string, request *authenticationv1.TokenRequest) error {
	if m.fails != nil {
		return m.fails
	}
	m.issued++
	m.last = request.DeepCopy()
	request.Status.Token = fmt.Sprintf("%s-%d", account, m.issued)
	request.Status.ExpirationTimestamp = metav1.NewTime(time.Now().Add(time.Duration(*request.Spec.ExpirationSeconds) * time.Second))
	return nil
}

func TestTokensAreHeldAndReplacedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &master{}
		changed := make(chan types.UID, 10)
		tokens := New(Config{Request: m.request, Changed: func(uid types.UID) { changed <- uid }, Clock: clock.RealClock{}})
		group := lifecycle.NewGroup(t.Context())
		group.Go(tokens.Run)
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u"}, Spec: corev1.PodSpec{ServiceAccountName: "robot"}}
		seconds := int64(1000)
		want := &corev1.ServiceAccountTokenProjection{Audience: "vault", ExpirationSeconds: &seconds}
		get := func() string {
			token, err := tokens.Token(t.Context(), pod, want)
			if err != nil {
				t.Fatal(err)
			}
			return token
		}
		if first, again := get(), get(); first != "robot-1" || again != first {
			t.Errorf("tokens %q and %q", first, again)
		}
		spec := m.last.Spec
		if ref := spec.BoundObjectRef; ref == nil || ref.Kind != "Pod" || ref.Name != "p" || ref.UID != "u" || len(spec.Audiences) != 1 || spec.Audiences[0] != "vault" {
			t.Errorf("asked for %+v", spec)
		}
		time.Sleep(740 * time.Second)
		synctest.Wait()
		if len(changed) > 0 || get() != "robot-1" {
			t.Error("replaced too early")
		}
		time.Sleep(80 * time.Second) // 820 s of 1000 have passed
		synctest.Wait()
		if len(changed) != 1 || <-changed != "u" {
			t.Fatal("the pod was not told, or more than once")
		}
		m.fails = errors.New("no master answers")
		if _, err := tokens.Token(t.Context(), pod, want); !errors.Is(err, m.fails) {
			t.Errorf("error %v", err)
		}
		m.fails = nil
		if got := get(); got != "robot-2" {
			t.Errorf("token %q", got)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(tokens.held) != 0 {
			t.Error("the token of a pod that has gone is held")
		}
		group.Cancel()
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
	})
}
