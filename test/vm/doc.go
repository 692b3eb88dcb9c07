// Package vm holds the test that installs machines as a person installs virtual ones:
// from a release archive, by hand, on machines that have nothing but what is unpacked.
package vm
