// Package storage groups the implementations of store.Backend: etcd for production,
// memory for tests. Both pass the suite in storagetest.
package storage
