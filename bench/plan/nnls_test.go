package plan

import (
	"math"
	"math/rand/v2"
	"testing"
)

func near(a, b, tolerance float64) bool {
	return math.Abs(a-b) <= tolerance*max(1, math.Abs(a), math.Abs(b))
}

// Problems whose answer is known by hand.
func TestNNLSKnown(t *testing.T) {
	for _, c := range []struct {
		name string
		a    [][]float64
		b    []float64
		want []float64
	}{
		{"square", [][]float64{{2, 0}, {0, 4}}, []float64{6, 8}, []float64{3, 2}},
		{"a negative answer is 0, and the other one is fitted alone", [][]float64{{1, 0}, {1, 1}}, []float64{2, 1}, []float64{1.5, 0}},
		{"all negative", [][]float64{{1, 2}, {3, 4}}, []float64{-1, -2}, []float64{0, 0}},
		{"a column of zeros", [][]float64{{1, 0}, {2, 0}}, []float64{1, 2}, []float64{1, 0}},
		{"overdetermined", [][]float64{{1, 1}, {1, 2}, {1, 3}}, []float64{1, 2, 2}, []float64{2.0 / 3, 0.5}},
		{"units that differ by ten powers of ten", [][]float64{{1e10, 1}, {2e10, 5}}, []float64{3, 9}, []float64{2e-10, 1}},
		{"fewer rows than columns", [][]float64{{1, 1, 1}}, []float64{3}, nil},
	} {
		x := nnls(c.a, c.b)
		for j := range c.want {
			if !near(x[j], c.want[j], 1e-9) {
				t.Errorf("%s: %v, not %v", c.name, x, c.want)
				break
			}
		}
		if c.want == nil {
			if sum := x[0] + x[1] + x[2]; !near(sum, 3, 1e-9) {
				t.Errorf("%s: %v", c.name, x)
			}
		}
	}
}

// The conditions of Karush, Kuhn and Tucker hold for random problems, those with columns that nearly depend on each other included.
func TestNNLSOptimal(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	for range 200 {
		m, n := 3+rng.IntN(40), 1+rng.IntN(12)
		a, b := make([][]float64, m), make([]float64, m)
		for i := range a {
			a[i] = make([]float64, n)
			for j := range a[i] {
				a[i][j] = rng.NormFloat64()
			}
			if n > 2 && rng.IntN(2) == 0 {
				a[i][1] = a[i][0] * (1 + 1e-6*rng.NormFloat64())
			}
			b[i] = rng.NormFloat64()
		}
		x := nnls(a, b)
		for j := range x {
			g := 0.0 // how the error falls with x[j]
			for i := range a {
				r := b[i]
				for k := range x {
					r -= a[i][k] * x[k]
				}
				g += a[i][j] * r
			}
			if x[j] < 0 || x[j] > 0 && math.Abs(g) > 1e-5 || x[j] == 0 && g > 1e-5 {
				t.Fatalf("%d by %d: x[%d] = %g, its gradient %g", m, n, j, x[j], g)
			}
		}
	}
}
