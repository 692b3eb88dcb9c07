// Package e2e tests a whole cluster: `kijabi up` with 3 masters and 2 nodes on this
// host, the programs of $KIJABI_BIN, real machines, real containers. The tests do what
// a user does, mostly with the `kijabi` command, and look at it from outside.
//
// They run as root, in order, on one cluster called "e2e". When a step fails, the
// cluster's state and the tails of its logs are kept in test/artifacts.
// KIJABI_E2E_KEEP=1 leaves the cluster as it is at the end.
package e2e
