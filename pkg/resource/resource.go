// Package resource opens what services keep data in beside Kafka, as their configuration says: the bucket, the identity store, the
// key file and the keyring.
//
// Promise: each is opened when the first service of a process asks for it, once for all of them, and closed with the process; services
// must not close it.
//
// Concurrency: all functions may be called from any goroutine.
//
// Failure: a setting that is missing or wrong is an error that names it; an identity store that cannot be reached is waited for.
package resource

import (
	"context"
	"errors"
	"fmt"
	"time"

	"databus/pkg/blob"
	"databus/pkg/identity"
	"databus/pkg/seal"
	"databus/pkg/service"
)

var (
	bucket  = &service.Shared[blob.Bucket]{Open: openBucket}
	stores  = &service.Shared[identity.Stores]{Open: openStores}
	keys    = &service.Shared[*seal.Keys]{Open: loadKeys}
	keyring = &service.Shared[*seal.Keyring]{Open: openKeyring}
)

// Bucket opens bucket.url.
func Bucket(ctx context.Context, e *service.Env) (blob.Bucket, error) { return bucket.Of(ctx, e) }

// Stores opens identity.url. It waits while the store cannot be reached, and the check "identity store" says so; it fails when ctx
// ends and when the URL is wrong.
func Stores(ctx context.Context, e *service.Env) (identity.Stores, error) { return stores.Of(ctx, e) }

// Keys loads keys.file.
func Keys(ctx context.Context, e *service.Env) (*seal.Keys, error) { return keys.Of(ctx, e) }

// Keyring opens the data keys of all accounts. The check "keyring" is not ready until every key event is known; services that need
// that wait with its Ready.
func Keyring(ctx context.Context, e *service.Env) (*seal.Keyring, error) { return keyring.Of(ctx, e) }

// GivenBucket is a bucket for a process that need not open one; nil is none.
func GivenBucket(b blob.Bucket) service.Given { return bucket.Given(b) }

// GivenStores is an identity store for a process that need not open one; nil is none.
func GivenStores(s identity.Stores) service.Given { return stores.Given(s) }

func openBucket(ctx context.Context, p *service.Process) (blob.Bucket, func() error, error) {
	if p.Config.Bucket.URL == "" {
		return nil, nil, errors.New("opening bucket: bucket.url is empty; set it to file:///directory or s3://bucket/prefix")
	}
	b, err := blob.Open(ctx, p.Config.Bucket.URL)
	return b, nil, err
}

func openStores(ctx context.Context, p *service.Process) (identity.Stores, func() error, error) {
	url := p.Config.Identity.URL
	if url == "" {
		return nil, nil, errors.New("opening identity store: identity.url is empty; set it to cassandra://host:9042 or pebble:///directory")
	}
	if err := identity.CheckURL(url); err != nil {
		return nil, nil, fmt.Errorf("identity.url: %w", err)
	}
	var s identity.Stores
	err := p.Await(ctx, "identity store", 30*time.Second, func(ctx context.Context) (err error) {
		s, err = identity.OpenStores(ctx, url)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return s, s.Close, nil
}

func loadKeys(ctx context.Context, p *service.Process) (*seal.Keys, func() error, error) {
	c := p.Config.Keys
	if c.File == "" {
		return nil, nil, errors.New("loading key file: keys.file is empty; name the file that `databus init --keys-file FILE` made")
	}
	k, err := seal.Load(ctx, c.File, seal.AWSKMS{URI: c.KMSURI, Endpoint: c.KMSEndpoint})
	if err != nil {
		return nil, nil, err
	}
	if c.KMSURI != "" && k.Plain() {
		p.Log.Warn("KMS wraps data keys, but the key file is plain: who can read it computes all record keys and opens all requests; `databus keys wrap` wraps it",
			"file", c.File)
	}
	return k, nil, nil
}

func openKeyring(ctx context.Context, p *service.Process) (*seal.Keyring, func() error, error) {
	file, err := keys.In(ctx, p)
	if err != nil {
		return nil, nil, err
	}
	env := p.Env("keyring")
	// It serves all services until the process ends, whichever of them asked first.
	k, err := seal.OpenKeyring(context.WithoutCancel(ctx), seal.Options{
		Kafka: env.KafkaOpts(), Codec: p.Codec, Keys: file, Log: env.Log, Holder: p.Name() + "." + p.Config.Instance.ID, Cache: p.Config.Keys.Cache,
	})
	if err != nil {
		return nil, nil, err
	}
	p.Health.Ask("keyring", func() (bool, string) {
		if k.IsReady() {
			return true, ""
		}
		return false, "reading keys.events"
	})
	return k, func() error { k.Close(); return nil }, nil
}
