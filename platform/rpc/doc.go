// Package rpc is how Kijabi's programs speak gRPC with each other: a server with
// limits, identities and default-deny access built in, a client connection, and a
// connection that fails over between apiservers. Errors cross it as Kubernetes
// StatusErrors, in both directions, without loss.
//
// A handler returns a *apierrors.StatusError (wrapped or not) and reads who calls
// from CallerFrom. A caller gets the same StatusError back.
package rpc
