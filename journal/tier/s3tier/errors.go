package s3tier

import (
	"crypto/tls"
	"errors"
	"net/http"

	"github.com/minio/minio-go/v7"

	"github.com/sluicemq/sluice/journal/tier"
)

// codes are the kinds of S3's own errors, where their status does not say it.
var codes = map[string]tier.Kind{
	"NoSuchKey": tier.NotFound, "NoSuchVersion": tier.NotFound, "NoSuchBucket": tier.Permanent, "NoSuchUpload": tier.Unavailable,
	"PreconditionFailed": tier.Exists, "InvalidRange": tier.BadRange,
	"AccessDenied": tier.Denied, "InvalidAccessKeyId": tier.Denied, "SignatureDoesNotMatch": tier.Denied, "ExpiredToken": tier.Denied,
	"InvalidToken": tier.Denied, "AllAccessDisabled": tier.Denied, "AccountProblem": tier.Denied, "RequestTimeTooSkewed": tier.Denied,
	"SlowDown": tier.Throttled, "SlowDownRead": tier.Throttled, "SlowDownWrite": tier.Throttled, "Throttling": tier.Throttled,
	"ThrottlingException": tier.Throttled, "RequestLimitExceeded": tier.Throttled, "TooManyRequests": tier.Throttled, "TooManyRequestsException": tier.Throttled,
	"XMinioStorageFull": tier.Full, "QuotaExceeded": tier.Full, "XMinioAdminBucketQuotaExceeded": tier.Full,
	"NotImplemented": tier.Unsupported, "EntityTooLarge": tier.TooLarge,
	"RequestTimeout": tier.Unavailable, "InternalError": tier.Unavailable, "ServiceUnavailable": tier.Unavailable, "OperationAborted": tier.Unavailable,
	// What was sent has changed on its way.
	"BadDigest": tier.Unavailable, "XAmzContentSHA256Mismatch": tier.Unavailable, "XAmzContentChecksumMismatch": tier.Unavailable, "IncompleteBody": tier.Unavailable,
}

// statuses are the kinds of statuses.
var statuses = map[int]tier.Kind{
	http.StatusNotFound: tier.NotFound, http.StatusPreconditionFailed: tier.Exists, http.StatusRequestedRangeNotSatisfiable: tier.BadRange,
	http.StatusUnauthorized: tier.Denied, http.StatusForbidden: tier.Denied, http.StatusTooManyRequests: tier.Throttled,
	http.StatusRequestTimeout: tier.Unavailable, http.StatusInsufficientStorage: tier.Full, http.StatusNotImplemented: tier.Unsupported,
	http.StatusRequestEntityTooLarge: tier.TooLarge,
}

func response(err error) (minio.ErrorResponse, bool) {
	var r minio.ErrorResponse
	ok := errors.As(err, &r)
	return r, ok
}

// kindOf is the kind of a client's error.
func kindOf(err error) tier.Kind {
	if r, ok := response(err); ok {
		if k, ok := codes[r.Code]; ok {
			return k
		}
		if k, ok := statuses[r.StatusCode]; ok {
			return k
		}
		if r.StatusCode >= 500 || r.StatusCode == 0 {
			return tier.Unavailable
		}
		return tier.Permanent
	}
	var cert *tls.CertificateVerificationError
	if errors.As(err, &cert) {
		return tier.Denied
	}
	return tier.Unavailable
}

func isBadRange(err error) bool { return err != nil && kindOf(err) == tier.BadRange }

// isConflict: S3 answers so to a conditional request while another one for the name is on its way.
func isConflict(err error) bool {
	r, ok := response(err)
	return ok && r.StatusCode == http.StatusConflict
}

// isUnknown: the service does not know a header, or refuses a condition that holds.
func isUnknown(err error) bool {
	r, ok := response(err)
	return ok && (r.StatusCode == http.StatusNotImplemented || r.StatusCode == http.StatusBadRequest || r.StatusCode == http.StatusMethodNotAllowed)
}
