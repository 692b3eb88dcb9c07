// Package images tests the container images on a real Docker engine: they are made from
// the programs of $KIJABI_BIN under a version of their own, twice, loaded, looked at and
// run, and removed. Images and containers of others are left alone.
package images
