// Package archtest holds the import directions of the workspace as a test: which
// module may import which, and which package alone may import a library.
package archtest
