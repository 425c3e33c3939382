// Package topics brings a cluster's topics in line with the catalogue, and refuses to work on topics that are not.
//
// Promise: Apply creates what is missing and adjusts configuration, and never deletes a topic, changes its number of
// partitions or its cleanup policy, since each of these loses or reorders data. Check compares without changing anything.
//
// Concurrency: both may run at any time from anywhere; two Apply at once agree on who created a topic.
//
// Failure behaviour: errors name the topic, what it is, what it must be and the next step; all of them at once.
package topics
