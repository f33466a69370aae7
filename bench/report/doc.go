// Package report turns results of package bench into files for people and for other programs: a page of HTML that needs nothing
// else to be seen, with plots and tables, and CSV.
//
// It owns how results look and what is said when they are not alike. It measures nothing and judges no broker: a result says itself
// what is wrong with it, and a report says that first. Beside package bench it knows the file that a ladder writes.
package report
