// Package compare sets results of package bench side by side: which figures a result has, their median and spread over several runs,
// ratios, and warnings where two results should not be compared at all.
//
// It is what sluice bench compare and perf/compare print. It runs nothing and reads no clock.
package compare
