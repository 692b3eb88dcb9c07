package snapshot

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"sigs.k8s.io/yaml"

	configv1 "kijabi.dev/platform/config/v1"
)

// partSize is the size of the parts that a snapshot is sent in, which are held in memory. S3
// takes 10,000 of them: 160 GB.
const partSize = 16 << 20

// Bucket is an archive in a bucket of an S3-compatible store. A snapshot is sent in parts and
// appears when the last has come.
type Bucket struct {
	client         *minio.Client
	bucket, prefix string
}

var _ Archive = (*Bucket)(nil)

// s3Credentials is the content of the file of credentials, YAML or JSON.
type s3Credentials struct {
	AccessKey    string `json:"accessKey"`
	SecretKey    string `json:"secretKey"`
	SessionToken string `json:"sessionToken,omitempty"`
}

// NewBucket returns the archive that cfg describes; its default prefix is the cluster's ID.
// Nothing is sent yet.
func NewBucket(cfg configv1.S3, clusterID string) (*Bucket, error) {
	if cfg.Endpoint == "" || cfg.Bucket == "" || cfg.CredentialsFile == "" {
		return nil, errors.New("snapshots.s3: endpoint, bucket and credentialsFile are required")
	}
	text, err := os.ReadFile(cfg.CredentialsFile)
	if err != nil {
		return nil, fmt.Errorf("snapshots.s3.credentialsFile: %w", err)
	}
	var secret s3Credentials
	if err := yaml.UnmarshalStrict(text, &secret); err != nil {
		return nil, fmt.Errorf("snapshots.s3.credentialsFile %s: want accessKey and secretKey: %w", cfg.CredentialsFile, err)
	}
	transport, err := transportOf(cfg)
	if err != nil {
		return nil, err
	}
	client, err := minio.New(cfg.Endpoint, &minio.Options{
		Creds:  credentials.NewStaticV4(secret.AccessKey, secret.SecretKey, secret.SessionToken),
		Secure: !cfg.Insecure, Region: cfg.Region, Transport: transport,
	})
	if err != nil {
		return nil, fmt.Errorf("snapshots.s3: %w", err)
	}
	prefix := strings.Trim(cfg.Prefix, "/")
	if prefix == "" {
		prefix = clusterID
	}
	return &Bucket{client: client, bucket: cfg.Bucket, prefix: prefix}, nil
}

// transportOf trusts the configured CAs and speaks nothing older than TLS 1.2.
func transportOf(cfg configv1.S3) (http.RoundTripper, error) {
	transport, err := minio.DefaultTransport(!cfg.Insecure)
	if err != nil || cfg.CAFile == "" {
		return transport, err
	}
	text, err := os.ReadFile(cfg.CAFile)
	if err != nil {
		return nil, fmt.Errorf("snapshots.s3.caFile: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("snapshots.s3.caFile: %s holds no certificate in PEM", cfg.CAFile)
	}
	transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	return transport, nil
}

// String implements Archive.
func (b *Bucket) String() string { return "s3://" + path.Join(b.bucket, b.prefix) }

func (b *Bucket) key(name string) string { return b.prefix + "/" + name }

// Put implements Archive.
func (b *Bucket) Put(ctx context.Context, name string, write func(io.Writer) error) (int64, error) {
	reader, writer := io.Pipe()
	sent := make(chan error, 1)
	var size int64
	go func() { //nolint:forbidigo // it ends with the reader, before Put returns
		info, err := b.client.PutObject(ctx, b.bucket, b.key(name), reader, -1, minio.PutObjectOptions{PartSize: partSize})
		size = info.Size
		_ = reader.CloseWithError(endOf(err))
		sent <- err
	}()
	_ = writer.CloseWithError(write(writer))
	if err := <-sent; err != nil {
		return 0, fmt.Errorf("send %s to %s: %w", name, b, err)
	}
	return size, nil
}

// endOf is what a writer gets after the sender has ended.
func endOf(err error) error {
	if err == nil {
		return io.ErrClosedPipe
	}
	return err
}

// Open implements Archive.
func (b *Bucket) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	object, err := b.client.GetObject(ctx, b.bucket, b.key(name), minio.GetObjectOptions{})
	if err == nil {
		_, err = object.Stat() // nothing is asked before
	}
	if err != nil {
		if minio.ToErrorResponse(err).Code == minio.NoSuchKey {
			return nil, fmt.Errorf("snapshot %s in %s: %w", name, b, fs.ErrNotExist)
		}
		return nil, fmt.Errorf("read %s from %s: %w", name, b, err)
	}
	return object, nil
}

// List implements Archive.
func (b *Bucket) List(ctx context.Context) ([]Entry, error) {
	var all []Entry
	for object := range b.client.ListObjects(ctx, b.bucket, minio.ListObjectsOptions{Prefix: b.prefix + "/"}) {
		if object.Err != nil {
			return nil, fmt.Errorf("list %s: %w", b, object.Err)
		}
		if entry, ok := parseName(strings.TrimPrefix(object.Key, b.prefix+"/")); ok {
			entry.Bytes = object.Size
			all = append(all, entry)
		}
	}
	sortEntries(all)
	return all, nil
}

// Remove implements Archive.
func (b *Bucket) Remove(ctx context.Context, name string) error {
	if err := b.client.RemoveObject(ctx, b.bucket, b.key(name), minio.RemoveObjectOptions{}); err != nil {
		return fmt.Errorf("remove %s from %s: %w", name, b, err)
	}
	return nil
}
