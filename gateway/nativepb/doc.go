// Package nativepb contains the messages of the native API: those of the KMS Instance SDK (dkms-gcs
// 0.2) for the operations that the gateway serves. `make generate` generates it from native.proto.
package nativepb
