// Package arch holds the walls of the house: tests that fail when a package imports what it may not, when a file or a function
// outgrows its bound, when a package has no comment, when a dependency comes or goes unseen. It owns no code that runs; the rules
// are tables in its tests.
package arch
