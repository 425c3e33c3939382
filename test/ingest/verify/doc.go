// Package verify says whether the record half lost or doubled anything: it folds databus.records in order of offsets with
// a model of its own and compares the result with the three tables row by row, with the evidence, and with what callers
// were told.
//
// The model shares nothing with the services and the packages they are made of, but the schemas of the events: keys,
// pseudonyms, the rule for repeats and the rows are computed here from the documents. Identifiers are normalised by
// nobody: what is sent must be in its normal form already (Sent).
package verify
