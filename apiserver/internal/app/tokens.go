package app

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"kijabi.dev/apiserver/internal/certificates"
	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/platform/kube/object"
)

// Join tokens are Secrets in kube-system, of a type of their own.
const (
	tokenType      corev1.SecretType = "kijabi.dev/join-token"
	tokenNamespace string            = "kube-system"
	tokenPrefix    string            = "join-token-"
	tokenKey       string            = "record.json"
)

// namespaceWait is how long a new token waits for its namespace, looking every namespacePause.
const (
	namespaceWait  = 10 * time.Second
	namespacePause = 20 * time.Millisecond
)

// tokens keeps join tokens in the registry.
type tokens struct {
	registry registry.Registry
	caller   registry.Caller
}

var _ certificates.TokenStore = (*tokens)(nil)

func secretKind() object.Kind { return object.KindOf[*corev1.Secret]() }

func (t *tokens) ref(id string) registry.Ref {
	ref := registry.Ref{Resource: secretKind().GVR, Namespace: tokenNamespace}
	if id != "" {
		ref.Name = tokenPrefix + id
	}
	return ref
}

func decodeToken(value []byte) (certificates.Record, error) {
	obj, err := object.Decode(secretKind(), value)
	if err != nil {
		return certificates.Record{}, err
	}
	secret := obj.(*corev1.Secret)
	var record certificates.Record
	if err := json.Unmarshal(secret.Data[tokenKey], &record); err != nil {
		return certificates.Record{}, fmt.Errorf("join token %s: %w", secret.Name, err)
	}
	record.Version = secret.ResourceVersion
	return record, nil
}

func encodeToken(record certificates.Record) (*corev1.Secret, error) {
	version := record.Version
	record.Version = ""
	data, err := json.Marshal(record)
	if err != nil {
		return nil, err
	}
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: tokenNamespace, Name: tokenPrefix + record.ID, ResourceVersion: version},
		Type:       tokenType,
		Data:       map[string][]byte{tokenKey: data},
	}, nil
}

func (t *tokens) Get(ctx context.Context, id string) (certificates.Record, error) {
	record, err := t.registry.Get(ctx, t.ref(id))
	if err != nil {
		return certificates.Record{}, err
	}
	return decodeToken(record.Value)
}

func (t *tokens) Create(ctx context.Context, record certificates.Record) error {
	secret, err := encodeToken(record)
	if err != nil {
		return err
	}
	// The first token is asked for in a cluster's first moment, perhaps before the
	// leader has made its namespaces.
	ctx, cancel := context.WithTimeout(ctx, namespaceWait)
	defer cancel()
	for {
		_, err = t.registry.Create(ctx, t.caller, t.ref(record.ID), secret.DeepCopy(), registry.WriteOptions{})
		if !apierrors.IsNotFound(err) {
			return err
		}
		select {
		case <-time.After(namespacePause):
		case <-ctx.Done():
			return err
		}
	}
}

func (t *tokens) Update(ctx context.Context, record certificates.Record) error {
	secret, err := encodeToken(record)
	if err != nil {
		return err
	}
	_, err = t.registry.Update(ctx, t.caller, t.ref(record.ID), secret, registry.WriteOptions{})
	return err
}

func (t *tokens) Delete(ctx context.Context, id string) error {
	_, _, err := t.registry.Delete(ctx, t.caller, t.ref(id), metav1.DeleteOptions{})
	return ignoreNotFound(err)
}

func (t *tokens) List(ctx context.Context) ([]certificates.Record, error) {
	list, err := t.registry.List(ctx, t.ref(""), registry.ListOptions{Fields: fields.OneTermEqualSelector("type", string(tokenType)).String()})
	if err != nil {
		return nil, err
	}
	records := make([]certificates.Record, 0, len(list.Records))
	for _, r := range list.Records {
		record, err := decodeToken(r.Value)
		if err != nil {
			return nil, err
		}
		records = append(records, record)
	}
	return records, nil
}
