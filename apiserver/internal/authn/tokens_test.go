package authn_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"

	"kijabi.dev/apiserver/internal/authn"
	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/pki"
)

const issuer = "https://kubernetes.default.svc.cluster.local"

// objects is what tokens are bound to.
type objects struct {
	mu      sync.Mutex
	records map[store.Key]*store.Record
}

func (o *objects) Get(key store.Key) (*store.Record, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	record, ok := o.records[key]
	return record, ok
}

func keyOf(obj object.Object) store.Key {
	kind, err := object.KindOfObject(obj)
	if err != nil {
		panic(err)
	}
	return store.Key{Resource: kind.GroupResource().String(), Namespace: obj.GetNamespace(), Name: obj.GetName()}
}

func (o *objects) put(list ...object.Object) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, obj := range list {
		value, err := obj.Marshal()
		if err != nil {
			panic(err)
		}
		o.records[keyOf(obj)] = &store.Record{
			Key: keyOf(obj), Value: value, Index: store.Index{UID: obj.GetUID(), Deleting: obj.GetDeletionTimestamp() != nil},
		}
	}
}

func (o *objects) remove(obj object.Object) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.records, keyOf(obj))
}

func account(uid string) *corev1.ServiceAccount {
	return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "robot", UID: types.UID(uid)}}
}

func pod(uid string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "web", UID: types.UID(uid)},
		Spec:       corev1.PodSpec{ServiceAccountName: "robot", NodeName: "n1"},
	}
}

func node(uid string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: types.UID(uid)}}
}

func secret(uid string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "s", UID: types.UID(uid)}}
}

func newKey(t testing.TB) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	text, err := pki.EncodeKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return key, text
}

func publicPEM(t testing.TB, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

type fixture struct {
	*authn.Tokens
	t       testing.TB
	objects *objects
	clock   *clocktesting.FakePassiveClock
	key     *ecdsa.PrivateKey
	keyID   string
}

func newFixture(t testing.TB, change ...func(*authn.Config)) *fixture {
	t.Helper()
	key, text := newKey(t)
	keys, err := authn.ParseKeys(text, nil)
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{
		t: t, key: key, objects: &objects{records: map[store.Key]*store.Record{}},
		clock: clocktesting.NewFakePassiveClock(time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)),
	}
	f.objects.put(account("u1"), pod("p1"), node("n1"), secret("s1"))
	cfg := authn.Config{Keys: keys, Issuer: issuer, Objects: f.objects, Clock: f.clock}
	for _, c := range change {
		c(&cfg)
	}
	if f.Tokens, err = authn.NewTokens(cfg); err != nil {
		t.Fatal(err)
	}
	header, _, err := jwt.NewParser().ParseUnverified(f.issue(nil), jwt.MapClaims{})
	if err != nil {
		t.Fatal(err)
	}
	f.keyID, _ = header.Header["kid"].(string)
	return f
}

// issue asks for a token of a/robot bound to an object, or to none.
func (f *fixture) issue(ref *authenticationv1.BoundObjectReference, audiences ...string) string {
	f.t.Helper()
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: ref, Audiences: audiences}}
	if err := f.Request(context.Background(), "a", "robot", request); err != nil {
		f.t.Fatal(err)
	}
	return request.Status.Token
}

// sign makes a token of any claims.
func (f *fixture) sign(key any, method jwt.SigningMethod, kid string, claims jwt.MapClaims) string {
	f.t.Helper()
	token := jwt.NewWithClaims(method, claims)
	token.Header["kid"] = kid
	text, err := token.SignedString(key)
	if err != nil {
		f.t.Fatal(err)
	}
	return text
}

// claims are those of a good token, changed.
func (f *fixture) claims(change func(jwt.MapClaims)) jwt.MapClaims {
	f.t.Helper()
	claims := jwt.MapClaims{}
	if _, _, err := jwt.NewParser().ParseUnverified(f.issue(nil), claims); err != nil {
		f.t.Fatal(err)
	}
	change(claims)
	return claims
}

func bindTo(kind, name, uid string) *authenticationv1.BoundObjectReference {
	return &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: kind, Name: name, UID: types.UID(uid)}
}

func TestTokenNamesItsUser(t *testing.T) {
	f := newFixture(t)
	groups := []string{"system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"}
	for name, c := range map[string]struct {
		ref   *authenticationv1.BoundObjectReference
		extra map[string][]string
	}{
		"bound to nothing": {nil, map[string][]string{}},
		"to a pod, whose node is known": {bindTo("Pod", "web", "p1"), map[string][]string{
			"authentication.kubernetes.io/pod-name": {"web"}, "authentication.kubernetes.io/pod-uid": {"p1"},
			"authentication.kubernetes.io/node-name": {"n1"}, "authentication.kubernetes.io/node-uid": {"n1"},
		}},
		"to a pod of any uid": {bindTo("Pod", "web", ""), map[string][]string{
			"authentication.kubernetes.io/pod-name": {"web"}, "authentication.kubernetes.io/pod-uid": {"p1"},
			"authentication.kubernetes.io/node-name": {"n1"}, "authentication.kubernetes.io/node-uid": {"n1"},
		}},
		"to a secret": {bindTo("Secret", "s", "s1"), map[string][]string{}},
		"to a node": {bindTo("Node", "n1", "n1"), map[string][]string{
			"authentication.kubernetes.io/node-name": {"n1"}, "authentication.kubernetes.io/node-uid": {"n1"},
		}},
	} {
		user, audiences, err := f.Authenticate(t.Context(), f.issue(c.ref), nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		credential := user.Extra["authentication.kubernetes.io/credential-id"]
		if len(credential) != 1 || !strings.HasPrefix(credential[0], "JTI=") || len(credential[0]) < 30 {
			t.Errorf("%s: credential %q", name, credential)
		}
		c.extra["authentication.kubernetes.io/credential-id"] = credential
		want := authn.User{Name: "system:serviceaccount:a:robot", UID: "u1", Groups: groups, Extra: c.extra}
		if diff := cmp.Diff(want, user); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if diff := cmp.Diff([]string{issuer}, audiences); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestTokenEndsWithWhatItIsBoundTo(t *testing.T) {
	at := func(f *fixture, after time.Duration) *metav1.Time {
		return &metav1.Time{Time: f.clock.Now().Add(after)}
	}
	for name, c := range map[string]struct {
		ref    *authenticationv1.BoundObjectReference
		change func(f *fixture)
		want   string // empty if it lives on
	}{
		"account is gone":                  {nil, func(f *fixture) { f.objects.remove(account("")) }, "robot is gone"},
		"account is another":               {nil, func(f *fixture) { f.objects.put(account("u2")) }, "robot is another"},
		"pod is gone":                      {bindTo("Pod", "web", "p1"), func(f *fixture) { f.objects.remove(pod("")) }, "web is gone"},
		"pod is another":                   {bindTo("Pod", "web", "p1"), func(f *fixture) { f.objects.put(pod("p2")) }, "web is another"},
		"pod is gone, token bound to none": {nil, func(f *fixture) { f.objects.remove(pod("")) }, ""},
		"account is gone, bound to a pod":  {bindTo("Pod", "web", "p1"), func(f *fixture) { f.objects.remove(account("")) }, "robot is gone"},
		"node of the pod is gone":          {bindTo("Pod", "web", "p1"), func(f *fixture) { f.objects.remove(node("")) }, ""},
		"secret is gone":                   {bindTo("Secret", "s", "s1"), func(f *fixture) { f.objects.remove(secret("")) }, "s is gone"},
		"node is another":                  {bindTo("Node", "n1", "n1"), func(f *fixture) { f.objects.put(node("n2")) }, "n1 is another"},
		"pod shuts down": {bindTo("Pod", "web", "p1"), func(f *fixture) {
			p := pod("p1")
			p.DeletionTimestamp = at(f, 30*time.Second)
			f.objects.put(p)
		}, ""},
		"pod should be gone": {bindTo("Pod", "web", "p1"), func(f *fixture) {
			p := pod("p1")
			p.DeletionTimestamp = at(f, -61*time.Second)
			f.objects.put(p)
		}, "web is being deleted"},
		"an hour has passed":               {nil, func(f *fixture) { f.clock.SetTime(f.clock.Now().Add(time.Hour)) }, ""},
		"an hour and more":                 {nil, func(f *fixture) { f.clock.SetTime(f.clock.Now().Add(61*time.Minute + time.Second)) }, "has expired"},
		"another master's clock is behind": {nil, func(f *fixture) { f.clock.SetTime(f.clock.Now().Add(-59 * time.Second)) }, ""},
		"another master's clock is wrong":  {nil, func(f *fixture) { f.clock.SetTime(f.clock.Now().Add(-61 * time.Second)) }, "not valid yet"},
	} {
		f := newFixture(t)
		token := f.issue(c.ref)
		if _, _, err := f.Authenticate(t.Context(), token, nil); err != nil {
			t.Errorf("%s, before: %v", name, err)
		}
		c.change(f)
		if _, _, err := f.Authenticate(t.Context(), token, nil); c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// A token without an end is good while its secret holds it, and its account is there.
func TestPermanentTokens(t *testing.T) {
	for name, c := range map[string]struct {
		change func(f *fixture, s *corev1.Secret)
		want   string // empty if it lives on
	}{
		"ten years have passed":    {func(f *fixture, _ *corev1.Secret) { f.clock.SetTime(f.clock.Now().AddDate(10, 0, 0)) }, ""},
		"secret is gone":           {func(f *fixture, s *corev1.Secret) { f.objects.remove(s) }, "s is gone"},
		"secret is another":        {func(f *fixture, s *corev1.Secret) { s.UID = "s2"; f.objects.put(s) }, "s is another"},
		"secret holds it no more":  {func(f *fixture, s *corev1.Secret) { s.Data = nil; f.objects.put(s) }, "s holds another"},
		"secret holds another one": {func(f *fixture, s *corev1.Secret) { s.Data["token"][0]++; f.objects.put(s) }, "s holds another"},
		"account is gone":          {func(f *fixture, _ *corev1.Secret) { f.objects.remove(account("")) }, "robot is gone"},
		"account is another":       {func(f *fixture, _ *corev1.Secret) { f.objects.put(account("u2")) }, "robot is another"},
	} {
		f := newFixture(t)
		token, uid, err := f.Permanent("a", "robot", "s", "s1")
		if err != nil || uid != "u1" {
			t.Fatalf("%v, account %s", err, uid)
		}
		if _, _, err := f.Authenticate(t.Context(), token, nil); err == nil {
			t.Errorf("%s: the token is good before its secret holds it", name)
		}
		s := secret("s1")
		s.Data = map[string][]byte{"token": []byte(token)}
		f.objects.put(s)
		user, _, err := f.Authenticate(t.Context(), token, nil)
		if err != nil || user.Name != "system:serviceaccount:a:robot" || user.UID != "u1" {
			t.Errorf("%s, before: %v, %v", name, user, err)
		}
		c.change(f, s)
		if _, _, err := f.Authenticate(t.Context(), token, nil); c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	f := newFixture(t)
	if _, _, err := f.Permanent("a", "ghost", "s", "s1"); !apierrors.IsNotFound(err) {
		t.Errorf("a token of no account: %v", err)
	}
	endless := f.sign(f.key, jwt.SigningMethodES256, f.keyID, f.claims(func(c jwt.MapClaims) { delete(c, "exp") }))
	if _, _, err := f.Authenticate(t.Context(), endless, nil); err == nil {
		t.Error("a token that has no end and no secret is good")
	}
}

// A token may be used on a master that has not heard yet of what it is bound to.
func TestTokenOfAnotherMaster(t *testing.T) {
	var f *fixture
	asked := 0
	f = newFixture(t, func(cfg *authn.Config) {
		cfg.Refresh = func(context.Context) bool {
			asked++
			f.objects.put(pod("p1"))
			return true
		}
	})
	token := f.issue(bindTo("Pod", "web", "p1"))
	f.objects.remove(pod(""))
	if _, _, err := f.Authenticate(t.Context(), token, nil); err != nil || asked != 1 {
		t.Errorf("%v, asked %d times", err, asked)
	}
	if _, _, err := f.Authenticate(t.Context(), token+"x", nil); err == nil || asked != 1 {
		t.Errorf("a token that is not genuine made a read: %v, asked %d times", err, asked)
	}
}

func TestForgedTokens(t *testing.T) {
	f := newFixture(t)
	other, _ := newKey(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	same := func(jwt.MapClaims) {}
	good := f.sign(f.key, jwt.SigningMethodES256, f.keyID, f.claims(same))
	if _, _, err := f.Authenticate(t.Context(), good, nil); err != nil {
		t.Fatalf("the unchanged token is refused: %v", err)
	}
	parts := strings.Split(good, ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"JWT","kid":"` + f.keyID + `"}`))
	public := publicPEM(t, f.key.Public())
	kubernetes := func(change func(map[string]any)) jwt.MapClaims {
		return f.claims(func(c jwt.MapClaims) { change(c["kubernetes.io"].(map[string]any)) })
	}
	for name, token := range map[string]string{
		"empty":                          "",
		"no token":                       "abc",
		"three dots":                     "...",
		"no signature":                   parts[0] + "." + parts[1] + ".",
		"algorithm none":                 none + "." + parts[1] + ".",
		"algorithm none, signed":         none + "." + parts[1] + "." + parts[2],
		"other claims":                   parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"system:serviceaccount:kube-system:admin"}`)) + "." + parts[2],
		"padded":                         good + "=",
		"longer":                         good + "AA",
		"too long":                       good + strings.Repeat("A", 20<<10),
		"another key":                    f.sign(other, jwt.SigningMethodES256, f.keyID, f.claims(same)),
		"another key's id":               f.sign(f.key, jwt.SigningMethodES256, "other", f.claims(same)),
		"no key id":                      f.sign(f.key, jwt.SigningMethodES256, "", f.claims(same)),
		"the public key as a shared one": f.sign(public, jwt.SigningMethodHS256, f.keyID, f.claims(same)),
		"RSA":                            f.sign(rsaKey, jwt.SigningMethodRS256, f.keyID, f.claims(same)),
		"another issuer":                 f.sign(f.key, jwt.SigningMethodES256, f.keyID, f.claims(func(c jwt.MapClaims) { c["iss"] = "https://evil.example" })),
		"another audience":               f.sign(f.key, jwt.SigningMethodES256, f.keyID, f.claims(func(c jwt.MapClaims) { c["aud"] = []string{"vault"} })),
		"no audience":                    f.sign(f.key, jwt.SigningMethodES256, f.keyID, f.claims(func(c jwt.MapClaims) { delete(c, "aud") })),
		"no end":                         f.sign(f.key, jwt.SigningMethodES256, f.keyID, f.claims(func(c jwt.MapClaims) { delete(c, "exp") })),
		"no beginning":                   f.sign(f.key, jwt.SigningMethodES256, f.keyID, f.claims(func(c jwt.MapClaims) { delete(c, "nbf") })),
		"another subject":                f.sign(f.key, jwt.SigningMethodES256, f.keyID, f.claims(func(c jwt.MapClaims) { c["sub"] = "system:serviceaccount:a:other" })),
		"no account":                     f.sign(f.key, jwt.SigningMethodES256, f.keyID, f.claims(func(c jwt.MapClaims) { delete(c, "kubernetes.io") })),
		"no account's uid":               f.sign(f.key, jwt.SigningMethodES256, f.keyID, kubernetes(func(k map[string]any) { k["serviceaccount"] = map[string]any{"name": "robot"} })),
		"another namespace":              f.sign(f.key, jwt.SigningMethodES256, f.keyID, kubernetes(func(k map[string]any) { k["namespace"] = "b" })),
		"a pod without uid":              f.sign(f.key, jwt.SigningMethodES256, f.keyID, kubernetes(func(k map[string]any) { k["pod"] = map[string]any{"name": "web"} })),
		"claims that are no object":      parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(`[]`)) + "." + parts[2],
	} {
		if user, _, err := f.Authenticate(t.Context(), token, nil); err == nil {
			t.Errorf("%s: accepted as %+v", name, user)
		}
	}
}

func TestAudiences(t *testing.T) {
	f := newFixture(t)
	token := f.issue(nil, "vault", "db")
	if _, _, err := f.Authenticate(t.Context(), token, nil); err == nil {
		t.Error("a token for others is accepted here")
	}
	_, audiences, err := f.Authenticate(t.Context(), token, []string{"x", "db"})
	if diff := cmp.Diff([]string{"db"}, audiences); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
}

func TestRequests(t *testing.T) {
	f := newFixture(t)
	for name, c := range map[string]struct {
		account string
		spec    authenticationv1.TokenRequestSpec
		want    string
	}{
		"too short":        {"robot", authenticationv1.TokenRequestSpec{ExpirationSeconds: new(int64(599))}, "spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes"},
		"too long":         {"robot", authenticationv1.TokenRequestSpec{ExpirationSeconds: new(int64(1<<32 + 1))}, "may not specify a duration larger than 2^32 seconds"},
		"no account":       {"other", authenticationv1.TokenRequestSpec{}, `serviceaccounts "other" not found`},
		"no pod":           {"robot", authenticationv1.TokenRequestSpec{BoundObjectRef: bindTo("Pod", "x", "")}, `pods "x" not found`},
		"another pod":      {"robot", authenticationv1.TokenRequestSpec{BoundObjectRef: bindTo("Pod", "web", "p2")}, "the UID in the bound object reference (p2) does not match the UID in record"},
		"kind":             {"robot", authenticationv1.TokenRequestSpec{BoundObjectRef: bindTo("ConfigMap", "x", "")}, "may be a v1 Pod, Secret or Node"},
		"version":          {"robot", authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v2", Name: "web"}}, "may be a v1 Pod, Secret or Node"},
		"a pod of another": {"second", authenticationv1.TokenRequestSpec{BoundObjectRef: bindTo("Pod", "web", "")}, "pod running with different serviceaccount name"},
	} {
		second := account("u3")
		second.Name = "second"
		f.objects.put(second)
		err := f.Request(t.Context(), "a", c.account, &authenticationv1.TokenRequest{Spec: c.spec})
		if err == nil || !strings.Contains(err.Error(), c.want) || apierrors.ReasonForError(err) == "" {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: new(int64(1 << 32))}}
	if err := f.Request(t.Context(), "a", "robot", request); err != nil {
		t.Fatal(err)
	}
	if got := time.Duration(*request.Spec.ExpirationSeconds) * time.Second; got != 30*24*time.Hour || !request.Status.ExpirationTimestamp.Equal(&metav1.Time{Time: f.clock.Now().Add(got)}) {
		t.Errorf("life %s until %s", got, request.Status.ExpirationTimestamp)
	}
	f.clock.SetTime(f.clock.Now().Add(30*24*time.Hour - time.Second))
	if _, _, err := f.Authenticate(t.Context(), request.Status.Token, nil); err != nil {
		t.Error(err)
	}
}

// Keys change without a token failing: the new one is known before it signs, the old one after.
func TestKeysRotate(t *testing.T) {
	dir := t.TempDir()
	oldKey, oldText := newKey(t)
	newKey, newText := newKey(t)
	load := func(private []byte, public ...any) *authn.Keys {
		t.Helper()
		var pub []byte
		for _, key := range public {
			pub = append(pub, publicPEM(t, key)...)
		}
		for name, content := range map[string][]byte{"service-account.key": private, "service-account.pub": pub} {
			if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		keys, err := authn.LoadKeys(dir)
		if err != nil {
			t.Fatal(err)
		}
		return keys
	}
	with := func(keys *authn.Keys) *fixture {
		return newFixture(t, func(cfg *authn.Config) { cfg.Keys = keys })
	}
	before := with(load(oldText, oldKey.Public()))
	announced := with(load(oldText, oldKey.Public(), newKey.Public()))
	changed := with(load(newText, newKey.Public(), oldKey.Public()))
	after := with(load(newText, newKey.Public()))
	for name, c := range map[string]struct {
		from, at *fixture
		want     bool
	}{
		"old token, before": {before, before, true}, "old token, announced": {before, announced, true},
		"old token, changed": {before, changed, true}, "old token, after": {before, after, false},
		"new token, announced": {changed, announced, true}, "new token, before": {changed, before, false},
		"new token, after": {changed, after, true},
	} {
		if _, _, err := c.at.Authenticate(t.Context(), c.from.issue(nil), nil); (err == nil) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What others get shows both.
	var set struct {
		Keys []struct{ Kid, Kty, Crv, X, Y, Alg, Use string }
	}
	text, err := changed.JWKS()
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &set); err != nil || len(set.Keys) != 2 {
		t.Fatalf("%v %s", err, text)
	}
	coordinate := func(text string) []byte {
		bytes, err := base64.RawURLEncoding.DecodeString(text)
		if err != nil || len(bytes) != 32 {
			t.Errorf("%q: %v", text, err)
		}
		return bytes
	}
	for i, key := range []*ecdsa.PrivateKey{newKey, oldKey} {
		point := append(append([]byte{4}, coordinate(set.Keys[i].X)...), coordinate(set.Keys[i].Y)...)
		published, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
		if err != nil || !key.PublicKey.Equal(published) || set.Keys[i].Alg != "ES256" || set.Keys[i].Kty != "EC" {
			t.Errorf("key %d is published as %+v", i, set.Keys[i])
		}
	}
	if set.Keys[0].Kid != after.keyID || set.Keys[1].Kid != before.keyID {
		t.Error("keys are published under other ids than tokens name")
	}
}

func TestKeysThatCannotBeUsed(t *testing.T) {
	_, good := newKey(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string][2][]byte{
		"no signing key": {nil, nil}, "RSA": {good, publicPEM(t, rsaKey.Public())}, "another curve": {good, publicPEM(t, p384.Public())},
		"no key": {good, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")})},
	} {
		if _, err := authn.ParseKeys(c[0], c[1]); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := authn.LoadKeys(t.TempDir()); err == nil {
		t.Error("an empty directory has keys")
	}
}

// FuzzAuthenticate: whatever is presented, only genuine tokens name a user.
func FuzzAuthenticate(f *testing.F) {
	x := newFixture(f)
	good := x.issue(bindTo("Pod", "web", "p1"))
	parts := strings.Split(good, ".")
	for _, seed := range []string{
		good, "", ".", "..", "...", parts[0], parts[0] + "..", parts[0] + "." + parts[1] + ".", "." + parts[1] + "." + parts[2],
		base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + ".", parts[0] + ".e30." + parts[2],
		base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256","kid":1}`)) + "." + parts[1] + "." + parts[2],
		parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"exp":1e400,"kubernetes.io":{"pod":{}}}`)) + "." + parts[2],
		strings.Repeat("a", 20<<10), good + "\x00",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, token string) {
		user, _, err := x.Authenticate(t.Context(), token, nil)
		if err != nil {
			if user.Name != "" {
				t.Errorf("refused and named: %+v", user)
			}
			return
		}
		// The signature of a token may be written in more than one way; what it says may not.
		if got := strings.Split(token, "."); len(got) != 3 || got[0] != parts[0] || got[1] != parts[1] {
			t.Errorf("accepted: %q", token)
		}
	})
}

func BenchmarkAuthenticate(b *testing.B) {
	f := newFixture(b)
	token := f.issue(bindTo("Pod", "web", "p1"))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := f.Authenticate(b.Context(), token, nil); err != nil {
			b.Fatal(err)
		}
	}
}
