// Package report draws what a chaos campaign has measured: latency through the
// faults, the pauses that each kind of fault caused, and a table of the runs.
//
// Everything here is a pure function of its input, plain structs in
// milliseconds and seconds: the same measurements give the same bytes, so that
// a report can be compared with the last one.
//
// Plots are SVG: in a document on the web they are sharp at any size, and small
// in a repository. They bring a white background and dark text, for readers in
// dark mode. They are drawn by gonum.org/v1/plot, as the courses of package
// bench are: its logarithmic axes, ticks and box plots would be more than the
// rest of an own writer.
package report
