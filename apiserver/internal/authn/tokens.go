package authn

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/clock"

	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
)

const (
	algorithm = "ES256"
	// maxTokenBytes bounds what is parsed before its signature is checked.
	maxTokenBytes = 16 << 10
	defaultLife   = time.Hour
	minLife       = 10 * time.Minute
	maxLife       = 30 * 24 * time.Hour
	// leeway is how far the clocks of two masters may be apart.
	leeway = time.Minute
	// afterDeletion is how long a token outlives the moment by which what it is bound to
	// must be gone: the last requests of a pod that shuts down.
	afterDeletion = time.Minute
	// cachedTokens bounds the memory of signatures that were checked.
	cachedTokens = 4096
)

// Keys of Extra that Kubernetes has given names.
const (
	extraCredential = "authentication.kubernetes.io/credential-id"
	extraPodName    = "authentication.kubernetes.io/pod-name"
	extraPodUID     = "authentication.kubernetes.io/pod-uid"
	extraNodeName   = "authentication.kubernetes.io/node-name"
	extraNodeUID    = "authentication.kubernetes.io/node-uid"
)

// Objects are what tokens are bound to; *store.Store implements it.
type Objects interface {
	Get(key store.Key) (*store.Record, bool)
}

// Config of Tokens.
type Config struct {
	// Keys sign and check. Required.
	Keys *Keys
	// Issuer is the URL that tokens name as their origin. Required.
	Issuer string
	// Audiences this apiserver answers to; Issuer if empty. Tokens are for the first of them
	// unless asked for otherwise.
	Audiences []string
	// Objects that tokens belong to. Required.
	Objects Objects
	// Refresh brings Objects up to date and returns true, or returns false if they have been
	// all along. It is asked before a genuine token is refused: what it is bound to may have
	// been made on another master a moment ago. Optional.
	Refresh func(ctx context.Context) bool
	// Clock; nil means the real one.
	Clock clock.PassiveClock
}

// Tokens issues and checks tokens of service accounts. It is safe for concurrent use.
//
// A token is a JWT that names a service account, and perhaps a pod, secret or node, by
// name and uid. Once one of them is gone, or another of its name has taken its place, the
// token is worth nothing.
type Tokens struct {
	cfg    Config
	parser *jwt.Parser

	mu sync.Mutex
	// checked remembers tokens whose signature is genuine, by their hash.
	checked map[[sha256.Size]byte]*claims
}

// NewTokens returns Tokens.
func NewTokens(cfg Config) (*Tokens, error) {
	if cfg.Keys == nil || cfg.Issuer == "" || cfg.Objects == nil {
		return nil, errors.New("authn: keys, issuer and objects are required")
	}
	if len(cfg.Audiences) == 0 {
		cfg.Audiences = []string{cfg.Issuer}
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	return &Tokens{
		cfg: cfg, checked: map[[sha256.Size]byte]*claims{},
		parser: jwt.NewParser(jwt.WithValidMethods([]string{algorithm}), jwt.WithoutClaimsValidation(), jwt.WithStrictDecoding()),
	}, nil
}

// Audiences this apiserver answers to. Not to be changed.
func (t *Tokens) Audiences() []string { return t.cfg.Audiences }

// Issuer is the URL that tokens name as their origin.
func (t *Tokens) Issuer() string { return t.cfg.Issuer }

// claims are what a token says.
type claims struct {
	jwt.RegisteredClaims

	Kubernetes bound `json:"kubernetes.io"`
}

// bound is what a token belongs to.
type bound struct {
	Namespace      string     `json:"namespace,omitempty"`
	ServiceAccount reference  `json:"serviceaccount"`
	Pod            *reference `json:"pod,omitempty"`
	Secret         *reference `json:"secret,omitempty"`
	Node           *reference `json:"node,omitempty"`
}

type reference struct {
	Name string    `json:"name"`
	UID  types.UID `json:"uid"`
}

// Request issues a token for a service account: it completes request, whose status then
// holds the token. Errors are *apierrors.StatusError.
func (t *Tokens) Request(_ context.Context, namespace, name string, request *authenticationv1.TokenRequest) error {
	spec := &request.Spec
	if spec.ExpirationSeconds == nil {
		spec.ExpirationSeconds = new(int64(defaultLife / time.Second))
	}
	if errs := validateLife(*spec.ExpirationSeconds); len(errs) > 0 {
		return apierrors.NewInvalid(authenticationv1.SchemeGroupVersion.WithKind("TokenRequest").GroupKind(), request.Name, errs)
	}
	*spec.ExpirationSeconds = min(*spec.ExpirationSeconds, int64(maxLife/time.Second))
	if len(spec.Audiences) == 0 {
		spec.Audiences = t.cfg.Audiences[:1:1]
	}
	account, ok := t.cfg.Objects.Get(accountKey(namespace, name))
	if !ok {
		return apierrors.NewNotFound(schema.GroupResource{Resource: "serviceaccounts"}, name)
	}
	said := claims{Kubernetes: bound{Namespace: namespace, ServiceAccount: reference{name, account.Index.UID}}}
	if spec.BoundObjectRef != nil {
		if err := t.bind(&said.Kubernetes, spec.BoundObjectRef); err != nil {
			return err
		}
	}
	now := t.cfg.Clock.Now()
	expires := now.Add(time.Duration(*spec.ExpirationSeconds) * time.Second)
	said.RegisteredClaims = jwt.RegisteredClaims{
		Issuer: t.cfg.Issuer, Subject: ServiceAccount(namespace, name), Audience: spec.Audiences, ID: uuid.NewString(),
		IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(expires),
	}
	signed, err := t.sign(&said)
	if err != nil {
		return err
	}
	request.Namespace, request.Name = namespace, name
	request.CreationTimestamp = metav1.Time{Time: now.Truncate(time.Second)}
	request.Status = authenticationv1.TokenRequestStatus{Token: signed, ExpirationTimestamp: metav1.Time{Time: expires.Truncate(time.Second)}}
	return nil
}

func (t *Tokens) sign(said *claims) (string, error) {
	token := jwt.NewWithClaims(jwt.SigningMethodES256, said)
	token.Header["kid"] = t.cfg.Keys.signingID
	signed, err := token.SignedString(t.cfg.Keys.signing)
	if err != nil {
		return "", apierrors.NewInternalError(fmt.Errorf("sign token: %w", err))
	}
	return signed, nil
}

func validateLife(seconds int64) field.ErrorList {
	path := field.NewPath("spec", "expirationSeconds")
	switch {
	case seconds < int64(minLife/time.Second):
		return field.ErrorList{field.Invalid(path, seconds, "may not specify a duration less than 10 minutes")}
	case seconds > 1<<32:
		return field.ErrorList{field.Invalid(path, seconds, "may not specify a duration larger than 2^32 seconds")}
	}
	return nil
}

// bind ties a token to an object.
func (t *Tokens) bind(to *bound, ref *authenticationv1.BoundObjectReference) error {
	account := to.ServiceAccount.Name
	resource, namespace := "", to.Namespace
	switch (schema.GroupVersionKind{Version: ref.APIVersion, Kind: ref.Kind}) {
	case corev1.SchemeGroupVersion.WithKind("Pod"):
		resource = "pods"
	case corev1.SchemeGroupVersion.WithKind("Secret"):
		resource = "secrets"
	case corev1.SchemeGroupVersion.WithKind("Node"):
		resource, namespace = "nodes", ""
	default:
		return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to object with apiVersion %q and kind %q; it may be a v1 Pod, Secret or Node",
			account, ref.APIVersion, ref.Kind))
	}
	record, ok := t.cfg.Objects.Get(store.Key{Resource: resource, Namespace: namespace, Name: ref.Name})
	if !ok {
		return apierrors.NewNotFound(schema.GroupResource{Resource: resource}, ref.Name)
	}
	if ref.UID != "" && ref.UID != record.Index.UID {
		return apierrors.NewConflict(schema.GroupResource{Resource: resource}, ref.Name, fmt.Errorf(
			"the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID))
	}
	made := &reference{ref.Name, record.Index.UID}
	switch resource {
	case "secrets":
		to.Secret = made
	case "nodes":
		to.Node = made
	default:
		var pod corev1.Pod
		if err := pod.Unmarshal(record.Value); err != nil {
			return apierrors.NewInternalError(fmt.Errorf("read pod %s: %w", ref.Name, err))
		}
		if own := pod.Spec.ServiceAccountName; own != account && (own != "" || account != "default") {
			return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", account))
		}
		to.Pod = made
		if node, ok := t.cfg.Objects.Get(store.Key{Resource: "nodes", Name: pod.Spec.NodeName}); ok {
			to.Node = &reference{pod.Spec.NodeName, node.Index.UID}
		}
	}
	return nil
}

// Authenticate finds the user of a token that is for one of the audiences (those of this
// apiserver, if there are none), and which of them it is for. The error says what is wrong
// with the token and is for logs and for who may ask about tokens of others.
func (t *Tokens) Authenticate(ctx context.Context, token string, audiences []string) (User, []string, error) {
	said, err := t.check(token)
	if err != nil {
		return User{}, nil, err
	}
	if len(audiences) == 0 {
		audiences = t.cfg.Audiences
	}
	var common []string
	for _, one := range audiences {
		if slices.Contains(said.Audience, one) {
			common = append(common, one)
		}
	}
	if len(common) == 0 {
		return User{}, nil, fmt.Errorf("token audiences %q is invalid for the target audiences %q", said.Audience, audiences)
	}
	now := t.cfg.Clock.Now()
	if said.ExpiresAt != nil && now.After(said.ExpiresAt.Add(leeway)) {
		return User{}, nil, errors.New("service account token has expired")
	}
	if now.Before(said.NotBefore.Add(-leeway)) {
		return User{}, nil, errors.New("service account token is not valid yet")
	}
	alive := func() error {
		if err := t.alive(&said.Kubernetes, now); err != nil || said.ExpiresAt != nil {
			return err
		}
		return t.held(&said.Kubernetes, token)
	}
	err = alive()
	if err != nil && t.cfg.Refresh != nil && t.cfg.Refresh(ctx) {
		err = alive()
	}
	if err != nil {
		return User{}, nil, err
	}
	return userOf(said), common, nil
}

// check proves that this cluster has issued a token.
func (t *Tokens) check(token string) (*claims, error) {
	if len(token) > maxTokenBytes {
		return nil, errors.New("token is too long")
	}
	hash := sha256.Sum256([]byte(token))
	t.mu.Lock()
	said := t.checked[hash]
	t.mu.Unlock()
	if said != nil {
		return said, nil
	}
	said = &claims{}
	if _, err := t.parser.ParseWithClaims(token, said, t.keyOf); err != nil {
		return nil, fmt.Errorf("invalid bearer token: %w", err)
	}
	switch k := said.Kubernetes; {
	case said.Issuer != t.cfg.Issuer:
		return nil, fmt.Errorf("token is of issuer %q", said.Issuer)
	case said.NotBefore == nil || said.ExpiresAt == nil && said.Kubernetes.Secret == nil:
		return nil, errors.New("token has no term")
	case k.Namespace == "" || k.ServiceAccount.Name == "" || said.Subject != ServiceAccount(k.Namespace, k.ServiceAccount.Name):
		return nil, errors.New("token does not name its service account")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for old := range t.checked { // whichever comes first
		if len(t.checked) < cachedTokens {
			break
		}
		delete(t.checked, old)
	}
	t.checked[hash] = said
	return said, nil
}

func (t *Tokens) keyOf(token *jwt.Token) (any, error) {
	id, _ := token.Header["kid"].(string)
	key := t.cfg.Keys.verifying[id]
	if key == nil {
		return (*ecdsa.PublicKey)(nil), fmt.Errorf("no key %q", id)
	}
	return key, nil
}

func accountKey(namespace, name string) store.Key {
	return store.Key{Resource: "serviceaccounts", Namespace: namespace, Name: name}
}

// alive tells whether all that a token belongs to is still there.
func (t *Tokens) alive(b *bound, now time.Time) error {
	if err := t.present("service account", accountKey(b.Namespace, b.ServiceAccount.Name), &b.ServiceAccount, now); err != nil {
		return err
	}
	if b.Secret != nil {
		return t.present("secret", store.Key{Resource: "secrets", Namespace: b.Namespace, Name: b.Secret.Name}, b.Secret, now)
	}
	if b.Pod != nil {
		// The node of a pod's token says where the pod ran when it was issued.
		return t.present("pod", store.Key{Resource: "pods", Namespace: b.Namespace, Name: b.Pod.Name}, b.Pod, now)
	}
	if b.Node != nil {
		return t.present("node", store.Key{Resource: "nodes", Name: b.Node.Name}, b.Node, now)
	}
	return nil
}

func (t *Tokens) present(what string, key store.Key, want *reference, now time.Time) error {
	record, ok := t.cfg.Objects.Get(key)
	switch {
	case !ok:
		return fmt.Errorf("service account token has been invalidated: %s %s is gone", what, key.Name)
	case record.Index.UID != want.UID:
		return fmt.Errorf("service account token has been invalidated: %s %s is another by now", what, key.Name)
	case record.Index.Deleting:
		kind, _ := object.KindForResource(schema.ParseGroupResource(key.Resource))
		obj, err := object.Decode(kind, record.Value)
		if err != nil {
			return err
		}
		if at := obj.GetDeletionTimestamp(); at != nil && now.After(at.Add(afterDeletion)) {
			return fmt.Errorf("service account token has been invalidated: %s %s is being deleted", what, key.Name)
		}
	}
	return nil
}

func userOf(said *claims) User {
	b := &said.Kubernetes
	user := User{
		Name: said.Subject, UID: string(b.ServiceAccount.UID), Groups: ServiceAccountGroups(b.Namespace),
		Extra: map[string][]string{},
	}
	add := func(key string, value string) {
		if value != "" {
			user.Extra[key] = []string{value}
		}
	}
	if said.ID != "" {
		add(extraCredential, "JTI="+said.ID)
	}
	if b.Pod != nil {
		add(extraPodName, b.Pod.Name)
		add(extraPodUID, string(b.Pod.UID))
	}
	if b.Node != nil {
		add(extraNodeName, b.Node.Name)
		add(extraNodeUID, string(b.Node.UID))
	}
	return user
}

// Info is the user as reviews show it.
func (u User) Info() authenticationv1.UserInfo {
	info := authenticationv1.UserInfo{Username: u.Name, UID: u.UID, Groups: u.Groups}
	for key, values := range u.Extra {
		if info.Extra == nil {
			info.Extra = map[string]authenticationv1.ExtraValue{}
		}
		info.Extra[key] = values
	}
	return info
}

// Discovery is the OpenID Connect document about this issuer as JSON; keys are at jwksURL.
func (t *Tokens) Discovery(jwksURL string) ([]byte, error) {
	return json.Marshal(map[string]any{
		"issuer": t.cfg.Issuer, "jwks_uri": jwksURL,
		"response_types_supported": []string{"id_token"}, "subject_types_supported": []string{"public"},
		"id_token_signing_alg_values_supported": []string{algorithm},
	})
}

// JWKS is the set of keys that tokens can be checked with, as JSON.
func (t *Tokens) JWKS() ([]byte, error) { return t.cfg.Keys.JWKS() }
