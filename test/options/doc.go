// Package options makes a cluster that differs from the default in all that the options
// file can say of a machine of `kijabi up`, and uses it.
package options
