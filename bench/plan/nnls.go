package plan

import "math"

// nnls finds x ≥ 0 that makes |Ax − b| least, by the method of Lawson and Hanson (Solving Least Squares Problems, 1974, chapter
// 23): columns enter the passive set one by one, the one whose gradient is steepest first, and leave it where the least
// squares of the set would make them negative. a has a row for each equation. Columns that are all 0 get 0.
func nnls(a [][]float64, b []float64) []float64 {
	if len(a) == 0 {
		return nil
	}
	weights := make([]float64, len(a))
	for i := range weights {
		weights[i] = 1
	}
	return nnlsWeighted(a, b, weights)
}

// nnlsWeighted is nnls of equations that each count by a weight.
func nnlsWeighted(a [][]float64, b, weights []float64) []float64 {
	n := len(a[0])
	s := &nnlsState{gram: make([][]float64, n), right: make([]float64, n), x: make([]float64, n), passive: make([]bool, n), scale: make([]float64, n)}
	for j := range n { // columns of one length: their units differ by ten powers of ten
		sum := 0.0
		for i, row := range a {
			sum += row[j] * row[j] * weights[i] * weights[i]
		}
		if sum > 0 {
			s.scale[j] = 1 / math.Sqrt(sum)
		}
		s.gram[j] = make([]float64, n)
	}
	for i, row := range a {
		w := weights[i] * weights[i]
		for j, v := range row {
			if v == 0 {
				continue
			}
			v *= w * s.scale[j]
			s.right[j] += v * b[i]
			for k := range j + 1 {
				s.gram[j][k] += v * row[k] * s.scale[k]
			}
		}
	}
	for j := range n {
		for k := range j {
			s.gram[k][j] = s.gram[j][k]
		}
	}
	s.solve()
	for j := range s.x {
		s.x[j] *= s.scale[j]
	}
	return s.x
}

// nnlsState works with the products of the scaled columns with each other and with b, which are few however many rows there are.
type nnlsState struct {
	gram    [][]float64
	right   []float64
	x       []float64 // of the scaled columns
	passive []bool
	scale   []float64 // 0: a column of zeros
}

const (
	nnlsTolerance = 1e-11
	// nnlsDependent is how little of a column may be left beside those before it: less is rounding.
	nnlsDependent = 1e-11
)

func (s *nnlsState) solve() {
	norm := 0.0
	for _, v := range s.right {
		norm = max(norm, math.Abs(v))
	}
	refused := make([]bool, len(s.x))
	for range 10 * (len(s.x) + 1) { // each turn lessens the error, so it ends long before
		j := s.steepest(nnlsTolerance*norm, refused)
		if j < 0 {
			return
		}
		s.passive[j] = true
		z := s.leastSquares()
		if z[j] <= 0 { // rounding alone made it look worth while
			s.passive[j] = false
			refused[j] = true
			continue
		}
		clear(refused)
		s.move(z)
	}
}

// steepest is the column outside the set that lessens the error most; -1: none does.
func (s *nnlsState) steepest(tolerance float64, refused []bool) int {
	best, at := tolerance, -1
	for j := range s.x {
		if s.passive[j] || refused[j] || s.scale[j] == 0 {
			continue
		}
		w := s.right[j]
		for k, x := range s.x {
			w -= s.gram[j][k] * x
		}
		if w > best {
			best, at = w, j
		}
	}
	return at
}

// move goes from x to z as far as nothing gets negative; what would leaves the set, until z is reached.
func (s *nnlsState) move(z []float64) {
	for {
		alpha, first := 1.0, -1
		for j := range z {
			if !s.passive[j] || z[j] > 0 {
				continue
			}
			share := 0.0
			if s.x[j] > 0 {
				share = s.x[j] / (s.x[j] - z[j])
			}
			if first < 0 || share < alpha {
				alpha, first = share, j
			}
		}
		for j := range s.x {
			s.x[j] += alpha * (z[j] - s.x[j])
		}
		if first < 0 {
			return
		}
		s.x[first] = 0 // whatever rounding has made of it: each turn takes one out, so this ends
		for j := range s.x {
			if s.passive[j] && s.x[j] <= 0 {
				s.passive[j], s.x[j] = false, 0
			}
		}
		z = s.leastSquares()
	}
}

// leastSquares solves for the passive columns without bounds, by Cholesky's decomposition; the others, and those that depend on
// passive ones before them, are 0.
func (s *nnlsState) leastSquares() []float64 {
	var cols []int
	var rows [][]float64 // of the factor
	var y []float64
	for j, in := range s.passive {
		if !in {
			continue
		}
		row := make([]float64, len(cols)+1)
		left := s.gram[j][j]
		rest := s.right[j]
		for i, c := range cols {
			v := s.gram[j][c]
			for k := range i {
				v -= row[k] * rows[i][k]
			}
			row[i] = v / rows[i][i]
			left -= row[i] * row[i]
			rest -= row[i] * y[i]
		}
		if left < nnlsDependent {
			continue
		}
		row[len(cols)] = math.Sqrt(left)
		cols, rows, y = append(cols, j), append(rows, row), append(y, rest/row[len(cols)])
	}
	z := make([]float64, len(s.x))
	for i := len(cols) - 1; i >= 0; i-- {
		v := y[i]
		for k := i + 1; k < len(cols); k++ {
			v -= rows[k][i] * z[cols[k]]
		}
		z[cols[i]] = v / rows[i][i]
	}
	return z
}
