package gateway

import (
	"context"

	"github.com/kmsgate/kmsgate/gateway/kms"
)

// A door is a way into the corridor.
type door string

const (
	rpcDoor    door = "rpc"    // HTTPS, for the world
	nativeDoor door = "native" // HTTPS too, for programs with client keys
	adminDoor  door = "admin"  // a unix socket, for root and whom the gateway runs as
	localDoor  door = "local"  // this process itself
)

// isRemote reports whether what comes through the door comes over the network.
func (d door) isRemote() bool { return d == rpcDoor || d == nativeDoor }

// An operation is one row of the table.
type operation struct {
	quota    quota
	door     door // the most public door through which it can be had
	business bool // the business of a dedicated gateway: to use keys
	run      func(ctx context.Context, c *call) (kms.Response, error)
}

// op makes a row of a function: the parameters are decoded into a Req before it
// is called.
func op[Req, Resp any, R interface {
	*Resp
	kms.Response
}](q quota, d door, f func(ctx context.Context, c *call, req *Req) (R, error)) operation {
	return operation{q, d, q == asymmetric, func(ctx context.Context, c *call) (kms.Response, error) {
		req := new(Req)
		if err := kms.Decode(c.parameters, req); err != nil {
			return nil, err
		}
		resp, err := f(ctx, c, req)
		if err != nil {
			return nil, err // not resp: a nil R in a response is not nil
		}
		return resp, nil
	}}
}

// business marks an operation that is one of a dedicated gateway's business
// though it is not charged as such by a shared one.
func business(o operation) operation {
	o.business = true
	return o
}

// operations is the table of all that can be asked for.
var operations = map[string]operation{
	"AsymmetricSign":   op(asymmetric, rpcDoor, asymmetricSign),
	"AsymmetricVerify": op(asymmetric, rpcDoor, asymmetricVerify),
	"GetPublicKey":     business(op(keyRead, rpcDoor, getPublicKey)),
	"GenerateRandom":   op(asymmetric, nativeDoor, generateRandom),

	"CreateKey":             op(keyCreation, rpcDoor, createKey),
	"DescribeKey":           op(keyRead, rpcDoor, describeKey),
	"ListKeys":              op(keyRead, rpcDoor, listKeys),
	"EnableKey":             op(keyWrite, rpcDoor, enableKey),
	"DisableKey":            op(keyWrite, rpcDoor, disableKey),
	"ScheduleKeyDeletion":   op(keyWrite, rpcDoor, scheduleKeyDeletion),
	"CancelKeyDeletion":     op(keyWrite, rpcDoor, cancelKeyDeletion),
	"SetDeletionProtection": op(keyWrite, rpcDoor, setDeletionProtection),
	"UpdateKeyDescription":  op(keyWrite, rpcDoor, updateKeyDescription),

	"CreateKeyVersion":   op(keyWrite, rpcDoor, createKeyVersion),
	"DescribeKeyVersion": op(keyRead, rpcDoor, describeKeyVersion),
	"ListKeyVersions":    op(keyRead, rpcDoor, listKeyVersions),

	"CreateAlias":        op(keyWrite, rpcDoor, createAlias),
	"UpdateAlias":        op(keyWrite, rpcDoor, updateAlias),
	"DeleteAlias":        op(keyWrite, rpcDoor, deleteAlias),
	"ListAliases":        op(keyRead, rpcDoor, listAliases),
	"ListAliasesByKeyId": op(keyRead, rpcDoor, listAliasesByKeyId),

	"TagResource":      op(keyWrite, rpcDoor, tagResource),
	"UntagResource":    op(keyWrite, rpcDoor, untagResource),
	"ListResourceTags": op(tagQuery, rpcDoor, listResourceTags),
	"TagResources":     op(keyWrite, rpcDoor, tagResources),
	"UntagResources":   op(keyWrite, rpcDoor, untagResources),
	"ListTagResources": op(keyRead, rpcDoor, listTagResources),

	"SetKeyPolicy": op(keyWrite, rpcDoor, setKeyPolicy),
	"GetKeyPolicy": op(keyRead, rpcDoor, getKeyPolicy),

	"CreateNetworkRule":   op(keyWrite, rpcDoor, createNetworkRule),
	"DescribeNetworkRule": op(keyRead, rpcDoor, describeNetworkRule),
	"ListNetworkRules":    op(keyRead, rpcDoor, listNetworkRules),
	"UpdateNetworkRule":   op(keyWrite, rpcDoor, updateNetworkRule),
	"DeleteNetworkRule":   op(keyWrite, rpcDoor, deleteNetworkRule),

	"CreatePolicy":   op(keyWrite, rpcDoor, createPolicy),
	"DescribePolicy": op(keyRead, rpcDoor, describePolicy),
	"ListPolicies":   op(keyRead, rpcDoor, listPolicies),
	"UpdatePolicy":   op(keyWrite, rpcDoor, updatePolicy),
	"DeletePolicy":   op(keyWrite, rpcDoor, deletePolicy),

	"CreateApplicationAccessPoint":   op(keyWrite, rpcDoor, createApplicationAccessPoint),
	"DescribeApplicationAccessPoint": op(keyRead, rpcDoor, describeApplicationAccessPoint),
	"ListApplicationAccessPoints":    op(keyRead, rpcDoor, listApplicationAccessPoints),
	"UpdateApplicationAccessPoint":   op(keyWrite, rpcDoor, updateApplicationAccessPoint),
	"DeleteApplicationAccessPoint":   op(keyWrite, rpcDoor, deleteApplicationAccessPoint),

	"CreateClientKey": op(keyWrite, rpcDoor, createClientKey),
	"GetClientKey":    op(keyRead, rpcDoor, getClientKey),
	"ListClientKeys":  op(keyRead, rpcDoor, listClientKeys),
	"DeleteClientKey": op(keyWrite, rpcDoor, deleteClientKey),

	"DescribeRegions":          op(keyRead, rpcDoor, describeRegions),
	"DescribeAccountKmsStatus": op(activation, rpcDoor, describeAccountKmsStatus),
	"OpenKmsService":           op(activation, rpcDoor, openKmsService),
	"GetKmsInstance":           op(instanceRead, rpcDoor, getKmsInstance),
	"ListKmsInstances":         op(instanceRead, rpcDoor, listKmsInstances),

	"CreateUser":   op(administration, adminDoor, createUser),
	"ListUsers":    op(administration, adminDoor, listUsers),
	"DeleteUser":   op(administration, adminDoor, deleteUser),
	"ListQuotas":   op(administration, adminDoor, listQuotas),
	"SetUserQuota": op(administration, adminDoor, setUserQuota),

	"CreateAccessKey": op(administration, adminDoor, createAccessKey),
	"ListAccessKeys":  op(administration, adminDoor, listAccessKeys),
	"UpdateAccessKey": op(administration, adminDoor, updateAccessKey),
	"DeleteAccessKey": op(administration, adminDoor, deleteAccessKey),

	"CreateRamPolicy":      op(administration, adminDoor, createRamPolicy),
	"GetRamPolicy":         op(administration, adminDoor, getRamPolicy),
	"ListRamPolicies":      op(administration, adminDoor, listRamPolicies),
	"UpdateRamPolicy":      op(administration, adminDoor, updateRamPolicy),
	"DeleteRamPolicy":      op(administration, adminDoor, deleteRamPolicy),
	"AttachPolicyToUser":   op(administration, adminDoor, attachPolicyToUser),
	"DetachPolicyFromUser": op(administration, adminDoor, detachPolicyFromUser),
	"SimulatePolicy":       op(administration, adminDoor, simulatePolicy),

	"DescribeToken":      op(administration, adminDoor, describeToken),
	"ListTokenObjects":   op(administration, adminDoor, listTokenObjects),
	"TestKeyVersion":     op(administration, adminDoor, testKeyVersion),
	"DestroyTokenObject": op(administration, adminDoor, destroyTokenObject),

	"GetAuditHead": op(administration, adminDoor, getAuditHead),

	"CreateBackup": op(administration, adminDoor, createBackup),
}

// unsupported are the operations that KMS has (kms-20160120 v3.2.3 and v4.1.0)
// and this gateway has not.
var unsupported = []string{
	"AsymmetricDecrypt", "AsymmetricEncrypt", "CertificatePrivateKeyDecrypt", "CertificatePrivateKeySign",
	"CertificatePublicKeyEncrypt", "CertificatePublicKeyVerify", "ConnectKmsInstance", "CreateCertificate",
	"CreateSecret", "Decrypt", "DeleteCertificate", "DeleteKeyMaterial", "DeleteSecret", "DescribeCertificate",
	"DescribeSecret", "Encrypt", "ExportDataKey", "GenerateAndExportDataKey", "GenerateDataKey",
	"GenerateDataKeyWithoutPlaintext", "GenerateMac", "GetCertificate", "GetDefaultKmsInstance",
	"GetKmsInstanceQuotaInfos", "GetManagedDataKey", "GetParametersForImport", "GetRandomPassword",
	"GetSecretPolicy", "GetSecretValue", "ImportKeyMaterial", "ListManagedDataKeyVersions",
	"ListSecretVersionIds", "ListSecrets", "PutSecretValue", "ReEncrypt", "ReleaseKmsInstance", "RestoreSecret",
	"RotateSecret", "SetSecretPolicy", "UpdateCertificateStatus", "UpdateKmsInstanceBindVpc",
	"UpdateRotationPolicy", "UpdateSecret", "UpdateSecretRotationPolicy", "UpdateSecretVersionStage",
	"UploadCertificate", "VerifyMac",
}
