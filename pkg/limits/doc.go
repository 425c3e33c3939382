// Package limits is what an API layer imports to ask "may this call go on?" without asking anybody: it follows
// usage.limits and answers from memory.
//
// Promise: [View.Allow] is a look-up in memory, mostly of one cache line: no allocation, no network, and no lock but for an
// account that is being written or has more limits than six. It knows every limit state that was committed, as late as
// the topic brings it. A period ends by the view's own clock, so a new period starts open.
//
// Concurrency: all methods may be called by any number of goroutines.
//
// Failure: until the view has read the topic up to where it ended at the start, calls are answered as the options say,
// open or closed, and counted. When the brokers are unreachable later, the view answers with what it knows.
package limits
