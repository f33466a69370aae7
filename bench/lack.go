package bench

import (
	"errors"
	"fmt"
)

// LackError says that the generator lacked something that it needs: the run says nothing of the broker.
type LackError struct{ Detail string }

// Error says what was lacking.
func (e *LackError) Error() string { return e.Detail }

// lackOf gives the LackError that err comes down to, nil if it is none of the generator's.
func lackOf(err error) error {
	var already *LackError
	if errors.As(err, &already) {
		return already
	}
	for _, code := range generatorErrors {
		if errors.Is(err, code) {
			return &LackError{fmt.Sprintf("the generator can open no more connections: %v", err)}
		}
	}
	return nil
}
