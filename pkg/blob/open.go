package blob

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"
	"time"
)

// Open opens the bucket that a URL names:
//
//	file:///absolute/directory                     the directory is created when it is missing
//	mem://                                         a new, empty bucket in this process's memory
//	s3://bucket/prefix?endpoint=http://127.0.0.1:7070&region=us-east-1&path_style=true
//
// Further parameters of s3 are those of S3Options: encryption (AES256 or aws:kms), kms_key, parts_from, part_size (bytes) and
// answer_timeout (such as 60s).
// An S3 bucket must exist. Its credentials come from the AWS SDK's standard chain (environment, profile, web
// identity, instance), never from the URL. Without an endpoint it is AWS itself. Unknown parameters are refused.
func Open(ctx context.Context, rawURL string) (Bucket, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		// The parser's error repeats the URL, which may hold what does not belong there.
		return nil, fmt.Errorf("opening bucket: the URL cannot be parsed; it looks like file:///dir, mem:// or s3://bucket/prefix")
	}
	if u.User != nil {
		return nil, fmt.Errorf("opening bucket: credentials do not belong into its URL; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
	}
	switch u.Scheme {
	case "file":
		if u.Host != "" || !filepath.IsAbs(u.Path) || u.RawQuery != "" {
			return nil, fmt.Errorf("opening bucket: %q does not look like file:///absolute/directory", rawURL)
		}
		return OpenFileSystem(filepath.FromSlash(u.Path))
	case "mem":
		if u.Host != "" || u.Path != "" || u.RawQuery != "" {
			return nil, fmt.Errorf("opening bucket: %q should be just mem://", rawURL)
		}
		return NewMemory(), nil
	case "s3":
		opts, err := parseS3(u)
		if err != nil {
			return nil, fmt.Errorf("opening bucket: %w", err)
		}
		return OpenS3(ctx, opts)
	}
	return nil, fmt.Errorf("opening bucket: scheme %q is unknown; use file:///dir, mem:// or s3://bucket/prefix", u.Scheme)
}

func parseS3(u *url.URL) (S3Options, error) {
	opts := S3Options{Bucket: u.Host}
	if len(u.Path) > 1 {
		opts.Prefix = u.Path[1:]
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return opts, fmt.Errorf("the URL's parameters cannot be parsed")
	}
	for name, values := range query {
		if len(values) != 1 {
			return opts, fmt.Errorf("parameter %q occurs %d times", name, len(values))
		}
		switch name {
		case "endpoint":
			opts.Endpoint = values[0]
		case "region":
			opts.Region = values[0]
		case "path_style":
			if opts.PathStyle, err = strconv.ParseBool(values[0]); err != nil {
				return opts, fmt.Errorf("parameter path_style is %q; use true or false", values[0])
			}
		case "encryption":
			opts.Encryption = values[0]
		case "kms_key":
			opts.KMSKey = values[0]
		case "parts_from", "part_size":
			n, err := strconv.ParseInt(values[0], 10, 64)
			if err != nil || n < 1 {
				return opts, fmt.Errorf("parameter %s is %q; it is a number of bytes", name, values[0])
			}
			if name == "part_size" {
				opts.PartSize = n
			} else {
				opts.PartsFrom = n
			}
		case "answer_timeout":
			if opts.AnswerTimeout, err = time.ParseDuration(values[0]); err != nil || opts.AnswerTimeout <= 0 {
				return opts, fmt.Errorf("parameter answer_timeout is %q; it is a duration such as 60s", values[0])
			}
		default:
			return opts, fmt.Errorf("parameter %q is unknown; known are endpoint, region, path_style, encryption, kms_key, parts_from, part_size and answer_timeout", name)
		}
	}
	return opts, nil
}
