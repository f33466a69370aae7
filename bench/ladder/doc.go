// Package ladder finds the highest rate at which a broker holds an objective: rungs up by a factor until one does not hold, then
// bisection to the knee, each rung near it several times.
//
// It owns the search and its answer, an interval: the highest rate that held and the lowest that did not. It makes no load:
// package bench does, by a timetable, so that what a slow broker delays is in the latencies. A run that says nothing of the broker,
// because the generator lacked processor time or sockets, counts as no result, never as the broker's failure.
package ladder
