// Package embedded is a stub comment.
package embedded
