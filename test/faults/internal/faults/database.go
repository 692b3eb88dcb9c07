package faults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
	"unsafe"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/platform/kube/client"
)

// objects is how the keys of the bucket's values begin that may be damaged.
const objects = "/o/configmaps/"

// flip inverts a bit of the newest stored ConfigMap in the file of a member that is down: the
// file stays well-formed, only its content is another.
func flip(file string) error {
	db, err := bolt.Open(file, 0o600, &bolt.Options{ReadOnly: true, Timeout: 5 * time.Second})
	if err != nil {
		return fmt.Errorf("open %s: %w", file, err)
	}
	offset := int64(-1)
	err = db.View(func(tx *bolt.Tx) error {
		cursor := tx.Bucket([]byte("key")).Cursor()
		for key, value := cursor.Last(); key != nil; key, value = cursor.Prev() {
			if len(key) == 17 && bytes.Contains(value, []byte(objects)) {
				// bolt hands out its map of the file.
				offset = int64(uintptr(unsafe.Pointer(&value[len(value)-1])) - db.Info().Data)
				return nil
			}
		}
		return errors.New("it holds no ConfigMap")
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	one := make([]byte, 1)
	_, err = f.ReadAt(one, offset)
	if err == nil {
		one[0] ^= 0x10
		_, err = f.WriteAt(one, offset)
	}
	return errors.Join(err, f.Close())
}

// flipLog inverts a bit of the newest object in the log of a member that is down. A record before
// the last one is taken: the end of a log may be torn.
func flipLog(database string) error {
	logs, err := filepath.Glob(filepath.Join(filepath.Dir(database), "..", "wal", "*.wal"))
	if err != nil || len(logs) == 0 {
		return errors.Join(err, fmt.Errorf("%s has no log beside it", database))
	}
	file := logs[len(logs)-1] // their names are numbers
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	last := bytes.LastIndex(content, []byte(objects))
	if last < 0 {
		return fmt.Errorf("%s holds no ConfigMap", file)
	}
	offset := bytes.LastIndex(content[:max(0, last-4096)], []byte(objects))
	if offset < 0 {
		return fmt.Errorf("%s holds one ConfigMap only", file)
	}
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte{content[offset] ^ 0x10}, int64(offset))
	return errors.Join(err, f.Close())
}

// garbage puts an object that cannot be decoded into the database of every master.
func garbage() []Fault {
	return []Fault{{
		ID: "F25", About: "a ConfigMap is overwritten in all databases with what is none", Hold: time.Second, Limit: time.Minute,
		Inject: func(ctx context.Context, s Scene) (*Injection, error) {
			cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("garbage-%d", s.Epoch)}}
			conn, err := s.Cluster.Dial(s.Leader)
			if err != nil {
				return nil, err
			}
			defer func() { _ = conn.Close() }()
			if _, err := client.New(conn).Create(ctx, cm); err != nil {
				return nil, err
			}
			names := s.Cluster.Masters()
			in := &Injection{
				// Also when something fails half way; what runs stays as it is.
				Heal:   func(ctx context.Context) error { return s.Cluster.Power(ctx, "start", names...) },
				Verify: func(ctx context.Context) error { return quarantined(ctx, s, cm) },
			}
			if err := s.Cluster.Power(ctx, "stop", names...); err != nil {
				return in, err
			}
			for _, name := range names {
				if err := overwrite(s.Cluster.Database(name), "/o/configmaps/default/"+cm.Name); err != nil {
					return in, err
				}
			}
			return in, in.Heal(ctx)
		},
	}}
}

// overwrite replaces the stored value of a key in the file of a member that is down.
func overwrite(file, path string) error {
	db, err := bolt.Open(file, 0o600, &bolt.Options{Timeout: 5 * time.Second})
	if err != nil {
		return fmt.Errorf("open %s: %w", file, err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		bucket := tx.Bucket([]byte("key"))
		cursor := bucket.Cursor()
		for key, value := cursor.Last(); key != nil; key, value = cursor.Prev() {
			var pair mvccpb.KeyValue
			if err := proto.Unmarshal(value, &pair); err != nil || string(pair.GetKey()) != path {
				continue
			}
			pair.Value = append(bytes.Clone(pair.GetValue()[:3]), bytes.Repeat([]byte{0xff}, 40)...)
			damaged, err := proto.Marshal(&pair)
			if err != nil {
				return err
			}
			return bucket.Put(bytes.Clone(key), damaged)
		}
		return fmt.Errorf("%s is not in it", path)
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("overwrite %s in %s: %w", path, file, err)
	}
	return nil
}

// quarantined checks that through every master the other objects are listed, this one is not,
// and that it can be deleted.
func quarantined(ctx context.Context, s Scene, damaged *corev1.ConfigMap) error {
	for _, name := range s.Cluster.Masters() {
		conn, err := s.Cluster.Dial(name)
		if err != nil {
			return err
		}
		api := client.New(conn)
		page, err := client.List[*corev1.ConfigMap](ctx, api, client.ListOptions{Namespace: damaged.Namespace})
		if err == nil && (len(page.Items) == 0 || contains(page.Items, damaged.Name)) {
			err = fmt.Errorf("a list of %d objects; with the damaged one: %t", len(page.Items), contains(page.Items, damaged.Name))
		}
		if err == nil && name == s.Cluster.Masters()[0] {
			err = api.Delete(ctx, damaged, client.DeleteOptions{})
		}
		if err := errors.Join(err, conn.Close()); err != nil {
			return fmt.Errorf("%s with a damaged object in the database: %w", name, err)
		}
	}
	return nil
}

func contains(list []*corev1.ConfigMap, name string) bool {
	for _, cm := range list {
		if cm.Name == name {
			return true
		}
	}
	return false
}
