package service

import (
	"context"
	"errors"
	"fmt"
	"time"

	"databus/pkg/blob"
	"databus/pkg/identity"
	"databus/pkg/seal"
)

// What services share is opened when the first of them asks for it, and closed with the process.

func (p *Process) openBucket(ctx context.Context) (blob.Bucket, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bucket != nil {
		return p.bucket, nil
	}
	if p.Config.Bucket.URL == "" {
		return nil, errors.New("opening bucket: bucket.url is empty; set it to file:///directory or s3://bucket/prefix")
	}
	b, err := blob.Open(ctx, p.Config.Bucket.URL)
	if err != nil {
		return nil, err
	}
	p.bucket = b
	return b, nil
}

func (p *Process) loadKeys(ctx context.Context) (*seal.Keys, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.loadKeysLocked(ctx)
}

func (p *Process) loadKeysLocked(ctx context.Context) (*seal.Keys, error) {
	if p.keys != nil {
		return p.keys, nil
	}
	if p.Config.Keys.File == "" {
		return nil, errors.New("loading key file: keys.file is empty; name the file that `databus init --keys-file FILE` made")
	}
	kms := p.Config.Keys.kms()
	k, err := seal.Load(ctx, p.Config.Keys.File, kms)
	if err != nil {
		return nil, err
	}
	if kms.URI != "" && k.Plain() {
		p.Log.Warn("KMS wraps data keys, but the key file is plain: who can read it computes all record keys and opens all requests; `databus keys wrap` wraps it",
			"file", p.Config.Keys.File)
	}
	p.keys = k
	return k, nil
}

func (p *Process) openKeyring(ctx context.Context) (*seal.Keyring, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.keyring != nil {
		return p.keyring, nil
	}
	keys, err := p.loadKeysLocked(ctx)
	if err != nil {
		return nil, err
	}
	env := p.Env("keyring")
	// It serves all services until the process ends, whichever of them asked first.
	k, err := seal.OpenKeyring(context.WithoutCancel(ctx), seal.Options{
		Kafka: env.KafkaOpts(), Codec: p.Codec, Keys: keys, Log: env.Log,
		Holder: p.name + "." + p.Config.Instance.ID, Cache: p.Config.Keys.Cache,
	})
	if err != nil {
		return nil, err
	}
	p.keyring = k
	p.closers = append(p.closers, func() error { k.Close(); return nil })
	p.Health.Ask("keyring", func() (bool, string) {
		if k.IsReady() {
			return true, ""
		}
		return false, "reading keys.events"
	})
	return k, nil
}

func (p *Process) openStores(ctx context.Context) (identity.Stores, error) {
	p.storesMu.Lock()
	defer p.storesMu.Unlock()
	if p.stores != nil {
		return p.stores, nil
	}
	url := p.Config.Identity.URL
	if url == "" {
		return nil, errors.New("opening identity store: identity.url is empty; set it to cassandra://host:9042 or pebble:///directory")
	}
	if err := identity.CheckURL(url); err != nil {
		return nil, fmt.Errorf("identity.url: %w", err)
	}
	var stores identity.Stores
	err := p.await(ctx, "identity store", p.Health.Register("identity store"), 30*time.Second, func(ctx context.Context) (err error) {
		stores, err = identity.OpenStores(ctx, url)
		return err
	})
	if err != nil {
		return nil, err
	}
	p.stores = stores
	p.mu.Lock()
	p.closers = append(p.closers, stores.Close)
	p.mu.Unlock()
	return stores, nil
}
