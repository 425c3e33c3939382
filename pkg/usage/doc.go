// Package usage is what producers of usage events and the services that count them agree on: which events and contracts
// are valid, which periods a moment belongs to, and how an event is sent without holding up a request.
//
// Promise: the same contract and moment give the same periods everywhere. A Producer never blocks its caller; what it
// cannot take it drops and counts.
//
// Concurrency: Terms and the functions are safe for concurrent use, as is a Producer.
//
// Failure: an invalid event or contract is an error whose text names the rule and no value. A Producer whose broker or
// registry is unreachable keeps up to its buffer's size and drops what comes after.
package usage
