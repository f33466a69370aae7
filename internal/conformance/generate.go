package conformance

//go:generate go run ./gen
