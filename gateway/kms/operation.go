package kms

import (
	"reflect"
	"slices"
	"strings"
	"time"
)

// A Door is a way in, by its name in the audit log and in metrics.
type Door string

// The doors.
const (
	RPC    Door = "rpc"    // HTTPS, for the world
	Native Door = "native" // HTTPS too, for programs with client keys
	Admin  Door = "admin"  // a unix socket, for root and the user that the gateway runs as
	Local  Door = "local"  // the gateway's own process
)

// IsRemote reports whether what comes through the door comes over the network.
func (d Door) IsRemote() bool { return d == RPC || d == Native }

// An Operation describes an operation: all that the gateway, the command line and the
// documentation have to know of it, but what it does.
type Operation struct {
	Name     string
	Door     Door  // the most public door that offers it
	Quota    Quota // what it is charged to
	Business bool  // the business of a dedicated gateway: to use keys

	// Timeout is how long it may take once all of its request is there. Zero means as long
	// as its caller waits: it ends by itself, or has time-outs of its own.
	Timeout time.Duration

	// Resource is what policies are asked about: the resource of an ARN, as "key/{KeyId}",
	// where the named parameter says which. Changes of an alias ask about the alias, too,
	// and UpdateAlias about both keys. Empty means that authentication is enough, or that
	// only a local administrator gets there.
	Resource string

	// Native is how the native API has it; nil if it has not.
	Native *NativeOperation

	Request, Response reflect.Type // of structs; Response is nil where the answer is no message
	Differences       string       // from Alibaba Cloud KMS, for its users
}

// A NativeOperation is an operation in the native API. It is charged, permitted and
// audited as the operation that it belongs to.
type NativeOperation struct {
	Name        string // the ApiName
	MaxBody     int64  // bytes of its request
	Differences string // from the operation of the RPC API; empty if there are none
}

// FindNative returns the operation that has a name in the native API.
func FindNative(name string) (Operation, bool) {
	i := slices.IndexFunc(Operations, func(o Operation) bool { return o.Native != nil && o.Native.Name == name })
	if i < 0 {
		return Operation{}, false
	}
	return Operations[i], true
}

// Parameters are the parameters of the operation, in the order of its documentation.
func (o Operation) Parameters() []Parameter { return parametersOf(o.Request) }

// ResourceKind is the beginning of Resource, up to the name of one: "key" of
// "key/{KeyId}". It is not ok if the operation is not on one resource.
func (o Operation) ResourceKind() (kind string, ok bool) {
	kind, _, ok = strings.Cut(o.Resource, "/{")
	return kind, ok
}

// Find returns the description of an operation.
func Find(name string) (Operation, bool) {
	i, ok := byName[name]
	if !ok {
		return Operation{}, false
	}
	return Operations[i], true
}

var byName = func() map[string]int {
	all := make(map[string]int, len(Operations))
	for i, o := range Operations {
		all[o.Name] = i
	}
	return all
}()

func of[T any]() reflect.Type { return reflect.TypeFor[T]() }

// MaxNativeBody is the most bytes that a request of the native API may have: 3 MB, KMS
// documents.
const MaxNativeBody = 3 << 20

const (
	signTime    = 2500 * time.Millisecond // the Node SDKs give up after 3 s
	inspectTime = 45 * time.Second        // 60,000 objects take 12 s on SoftHSM
)

// Operations is the table of all that can be asked for. It must not be changed.
var Operations = []Operation{
	{Name: "AsymmetricSign", Door: RPC, Quota: QuotaAsymmetric, Business: true, Timeout: signTime, Resource: "key/{KeyId}",
		Native:  &NativeOperation{Name: "Sign", MaxBody: MaxNativeBody, Differences: "as AsymmetricSign, of a message: RAW, hashed here (for SM2 with the default user id), or DIGEST"},
		Request: of[AsymmetricSignRequest](), Response: of[AsymmetricSignResponse]()},
	{Name: "AsymmetricVerify", Door: RPC, Quota: QuotaAsymmetric, Business: true, Resource: "key/{KeyId}",
		Native:  &NativeOperation{Name: "Verify", MaxBody: MaxNativeBody, Differences: "as AsymmetricVerify, of a message"},
		Request: of[AsymmetricVerifyRequest](), Response: of[AsymmetricVerifyResponse](),
		Differences: "A malformed signature is `Value: false`."},
	{Name: "GetPublicKey", Door: RPC, Quota: QuotaKeyRead, Business: true, Resource: "key/{KeyId}",
		Native:  &NativeOperation{Name: "GetPublicKey", MaxBody: MaxNativeBody},
		Request: of[GetPublicKeyRequest](), Response: of[GetPublicKeyResponse]()},
	{Name: "GenerateRandom", Door: Native, Quota: QuotaAsymmetric, Business: true, Timeout: signTime, Resource: "*",
		Native:  &NativeOperation{Name: "GenerateRandom", MaxBody: MaxNativeBody, Differences: "1 to 1,024 bytes that the token makes. A token without a generator, or one that repeats itself: UnsupportedOperation"},
		Request: of[GenerateRandomRequest](), Response: of[GenerateRandomResponse]()},

	{Name: "CreateKey", Door: RPC, Quota: QuotaKeyCreation, Resource: "key", Request: of[CreateKeyRequest](), Response: of[CreateKeyResponse](),
		Differences: "KeySpec is required: KMS's default is a symmetric key. Making an RSA_4096 pair takes seconds, and Node's SDKs give up after 3 s unless told otherwise. EC_SM2 keys are software keys, so ProtectionLevel HSM is refused for them; the default is HSM for all others. Automatic rotation, EXTERNAL origin and ENCRYPT/DECRYPT are refused."},
	{Name: "DescribeKey", Door: RPC, Quota: QuotaKeyRead, Resource: "key/{KeyId}", Request: of[DescribeKeyRequest](), Response: of[DescribeKeyResponse](),
		Differences: "PrimaryKeyVersion, and all that is about rotation or imported material, is empty."},
	{Name: "ListKeys", Door: RPC, Quota: QuotaKeyRead, Resource: "key", Request: of[ListKeysRequest](), Response: of[ListKeysResponse]()},
	{Name: "EnableKey", Door: RPC, Quota: QuotaKeyWrite, Resource: "key/{KeyId}", Request: of[KeyRequest](), Response: of[EmptyResponse]()},
	{Name: "DisableKey", Door: RPC, Quota: QuotaKeyWrite, Resource: "key/{KeyId}", Request: of[KeyRequest](), Response: of[EmptyResponse]()},
	{Name: "ScheduleKeyDeletion", Door: RPC, Quota: QuotaKeyWrite, Resource: "key/{KeyId}", Request: of[ScheduleKeyDeletionRequest](), Response: of[EmptyResponse](),
		Differences: "A protected key: Rejected.StateModifiedFailed."},
	{Name: "CancelKeyDeletion", Door: RPC, Quota: QuotaKeyWrite, Resource: "key/{KeyId}", Request: of[KeyRequest](), Response: of[EmptyResponse](),
		Differences: "The key is Enabled afterwards, whatever it was before."},
	{Name: "SetDeletionProtection", Door: RPC, Quota: QuotaKeyWrite, Resource: "key/{ProtectedResourceArn}", Request: of[SetDeletionProtectionRequest](), Response: of[EmptyResponse]()},
	{Name: "UpdateKeyDescription", Door: RPC, Quota: QuotaKeyWrite, Resource: "key/{KeyId}", Request: of[UpdateKeyDescriptionRequest](), Response: of[EmptyResponse]()},

	{Name: "CreateKeyVersion", Door: RPC, Quota: QuotaKeyWrite, Resource: "key/{KeyId}", Request: of[CreateKeyVersionRequest](), Response: of[KeyVersionResponse](),
		Differences: "It works on an instance, too; KMS has it for keys outside of instances only. The interval between versions is configuration."},
	{Name: "DescribeKeyVersion", Door: RPC, Quota: QuotaKeyRead, Resource: "key/{KeyId}", Request: of[DescribeKeyVersionRequest](), Response: of[KeyVersionResponse]()},
	{Name: "ListKeyVersions", Door: RPC, Quota: QuotaKeyRead, Resource: "key/{KeyId}", Request: of[ListKeyVersionsRequest](), Response: of[ListKeyVersionsResponse]()},

	{Name: "CreateAlias", Door: RPC, Quota: QuotaKeyWrite, Resource: "key/{KeyId}", Request: of[CreateAliasRequest](), Response: of[EmptyResponse]()},
	{Name: "UpdateAlias", Door: RPC, Quota: QuotaKeyWrite, Resource: "key/{KeyId}", Request: of[UpdateAliasRequest](), Response: of[EmptyResponse]()},
	{Name: "DeleteAlias", Door: RPC, Quota: QuotaKeyWrite, Resource: "key/{AliasName}", Request: of[DeleteAliasRequest](), Response: of[EmptyResponse]()},
	{Name: "ListAliases", Door: RPC, Quota: QuotaKeyRead, Resource: "alias", Request: of[ListAliasesRequest](), Response: of[ListAliasesResponse]()},
	{Name: "ListAliasesByKeyId", Door: RPC, Quota: QuotaKeyRead, Resource: "key/{KeyId}", Request: of[ListAliasesByKeyIdRequest](), Response: of[ListAliasesResponse]()},

	{Name: "TagResource", Door: RPC, Quota: QuotaKeyWrite, Resource: "key/{KeyId}", Request: of[TagResourceRequest](), Response: of[EmptyResponse](),
		Differences: "Keys only, at most 20 tags each."},
	{Name: "UntagResource", Door: RPC, Quota: QuotaKeyWrite, Resource: "key/{KeyId}", Request: of[UntagResourceRequest](), Response: of[EmptyResponse]()},
	{Name: "ListResourceTags", Door: RPC, Quota: QuotaTagQuery, Resource: "key/{KeyId}", Request: of[KeyRequest](), Response: of[ListResourceTagsResponse]()},
	{Name: "TagResources", Door: RPC, Quota: QuotaKeyWrite, Resource: "key/{ResourceId}", Request: of[TagResourcesRequest](), Response: of[EmptyResponse](),
		Differences: "RegionId has to be the instance's, ResourceType key; at most 50 keys, 20 tags each. All or nothing."},
	{Name: "UntagResources", Door: RPC, Quota: QuotaKeyWrite, Resource: "key/{ResourceId}", Request: of[UntagResourcesRequest](), Response: of[EmptyResponse](),
		Differences: "As TagResources."},
	{Name: "ListTagResources", Door: RPC, Quota: QuotaKeyRead, Resource: "key", Request: of[ListTagResourcesRequest](), Response: of[ListTagResourcesResponse](),
		Differences: "NextToken is a KeyId. Without ResourceId, keys that the caller may not see are left out."},

	{Name: "SetKeyPolicy", Door: RPC, Quota: QuotaKeyWrite, Resource: "key/{KeyId}", Request: of[SetKeyPolicyRequest](), Response: of[EmptyResponse](),
		Differences: "Resource has to be `[\"*\"]`. An Allow lets users of the account in besides their own policies, a Deny of either wins. `acs:ram::<account>:*` means all users, not the root whom a local administrator is, so that nobody locks out everybody."},
	{Name: "GetKeyPolicy", Door: RPC, Quota: QuotaKeyRead, Resource: "key/{KeyId}", Request: of[GetKeyPolicyRequest](), Response: of[GetKeyPolicyResponse](),
		Differences: "For a key without a policy of its own it shows KMS's default policy, which by itself allows nobody anything here."},

	{Name: "CreateNetworkRule", Door: RPC, Quota: QuotaKeyWrite, Resource: "network/{Name}", Request: of[CreateNetworkRuleRequest](), Response: of[CreateNetworkRuleResponse](),
		Differences: "SourcePrivateIp is required: 1 to 100 addresses and prefixes, of IPv4 and IPv6. At most 1,000 rules. A Name that is taken: Rejected.ResourceExist."},
	{Name: "DescribeNetworkRule", Door: RPC, Quota: QuotaKeyRead, Resource: "network/{Name}", Request: of[NameRequest](), Response: of[DescribeNetworkRuleResponse]()},
	{Name: "ListNetworkRules", Door: RPC, Quota: QuotaKeyRead, Resource: "network", Request: of[ListNamedRequest](), Response: of[ListNetworkRulesResponse]()},
	{Name: "UpdateNetworkRule", Door: RPC, Quota: QuotaKeyWrite, Resource: "network/{Name}", Request: of[UpdateNetworkRuleRequest](), Response: of[EmptyResponse](),
		Differences: "It holds for the next request. So do all other changes of what client keys may do, which take KMS up to five minutes."},
	{Name: "DeleteNetworkRule", Door: RPC, Quota: QuotaKeyWrite, Resource: "network/{Name}", Request: of[NameRequest](), Response: of[EmptyResponse](),
		Differences: "A rule that policies name can be deleted: it lets nobody in then."},

	{Name: "CreatePolicy", Door: RPC, Quota: QuotaKeyWrite, Resource: "policy/{Name}", Request: of[CreatePolicyRequest](), Response: of[CreatePolicyResponse](),
		Differences: "CryptoServiceKeyUser permits AsymmetricSign, AsymmetricVerify and GetPublicKey with the keys in Resources, and GenerateRandom; CryptoServiceSecretUser permits nothing. Network rules have to exist, keys have not. Without AccessControlRules all addresses are let in. At most 1,000 policies."},
	{Name: "DescribePolicy", Door: RPC, Quota: QuotaKeyRead, Resource: "policy/{Name}", Request: of[NameRequest](), Response: of[DescribePolicyResponse]()},
	{Name: "ListPolicies", Door: RPC, Quota: QuotaKeyRead, Resource: "policy", Request: of[ListNamedRequest](), Response: of[ListPoliciesResponse]()},
	{Name: "UpdatePolicy", Door: RPC, Quota: QuotaKeyWrite, Resource: "policy/{Name}", Request: of[UpdatePolicyRequest](), Response: of[EmptyResponse](),
		Differences: "AccessControlRules without a network rule, `{}`, lets all addresses in."},
	{Name: "DeletePolicy", Door: RPC, Quota: QuotaKeyWrite, Resource: "policy/{Name}", Request: of[NameRequest](), Response: of[EmptyResponse](),
		Differences: "A policy that access points name can be deleted: it permits nothing then."},

	{Name: "CreateApplicationAccessPoint", Door: RPC, Quota: QuotaKeyWrite, Resource: "applicationaccesspoint/{Name}", Request: of[CreateApplicationAccessPointRequest](), Response: of[AccessPointResponse](),
		Differences: "The policies have to exist. At most 1,000 access points. A key's own policy can deny an access point something, as one of `acs:ram::<account>:*`, and cannot allow it anything."},
	{Name: "DescribeApplicationAccessPoint", Door: RPC, Quota: QuotaKeyRead, Resource: "applicationaccesspoint/{Name}", Request: of[NameRequest](), Response: of[AccessPointResponse]()},
	{Name: "ListApplicationAccessPoints", Door: RPC, Quota: QuotaKeyRead, Resource: "applicationaccesspoint", Request: of[ListNamedRequest](), Response: of[ListApplicationAccessPointsResponse]()},
	{Name: "UpdateApplicationAccessPoint", Door: RPC, Quota: QuotaKeyWrite, Resource: "applicationaccesspoint/{Name}", Request: of[UpdateApplicationAccessPointRequest](), Response: of[EmptyResponse]()},
	{Name: "DeleteApplicationAccessPoint", Door: RPC, Quota: QuotaKeyWrite, Resource: "applicationaccesspoint/{Name}", Request: of[NameRequest](), Response: of[EmptyResponse]()},

	{Name: "CreateClientKey", Door: RPC, Quota: QuotaKeyWrite, Resource: "applicationaccesspoint/{AapName}", Request: of[CreateClientKeyRequest](), Response: of[CreateClientKeyResponse](),
		Differences: "The PKCS#12 has 10,000 iterations. At most 10,000 client keys."},
	{Name: "GetClientKey", Door: RPC, Quota: QuotaKeyRead, Resource: "applicationaccesspoint/{AapName}", Request: of[ClientKeyRequest](), Response: of[GetClientKeyResponse]()},
	{Name: "ListClientKeys", Door: RPC, Quota: QuotaKeyRead, Resource: "applicationaccesspoint/{AapName}", Request: of[ListClientKeysRequest](), Response: of[ListClientKeysResponse](),
		Differences: "Without AapName it takes the right on `applicationaccesspoint/*`."},
	{Name: "DeleteClientKey", Door: RPC, Quota: QuotaKeyWrite, Resource: "applicationaccesspoint/{AapName}", Request: of[ClientKeyRequest](), Response: of[EmptyResponse]()},

	{Name: "DescribeRegions", Door: RPC, Quota: QuotaKeyRead, Request: of[NoRequest](), Response: of[DescribeRegionsResponse]()},
	{Name: "DescribeAccountKmsStatus", Door: RPC, Quota: QuotaActivation, Resource: "*", Request: of[NoRequest](), Response: of[DescribeAccountKmsStatusResponse](),
		Differences: "Always Enabled."},
	{Name: "OpenKmsService", Door: RPC, Quota: QuotaActivation, Resource: "*", Request: of[NoRequest](), Response: of[EmptyResponse](),
		Differences: "There is nothing to open: it succeeds."},
	{Name: "GetKmsInstance", Door: RPC, Quota: QuotaInstanceRead, Resource: "keystore/{KmsInstanceId}", Request: of[GetKmsInstanceRequest](), Response: of[GetKmsInstanceResponse](),
		Differences: "What is about VPCs and terms is empty. CaCertificateChainPem is the CA to trust."},
	{Name: "ListKmsInstances", Door: RPC, Quota: QuotaInstanceRead, Resource: "keystore/*", Request: of[ListKmsInstancesRequest](), Response: of[ListKmsInstancesResponse]()},

	{Name: "CreateUser", Door: Admin, Quota: QuotaAdministration, Request: of[CreateUserRequest](), Response: of[CreateUserResponse]()},
	{Name: "ListUsers", Door: Admin, Quota: QuotaAdministration, Request: of[NoRequest](), Response: of[ListUsersResponse]()},
	{Name: "DeleteUser", Door: Admin, Quota: QuotaAdministration, Request: of[DeleteUserRequest](), Response: of[EmptyResponse]()},
	{Name: "ListQuotas", Door: Admin, Quota: QuotaAdministration, Request: of[NoRequest](), Response: of[ListQuotasResponse]()},
	{Name: "SetUserQuota", Door: Admin, Quota: QuotaAdministration, Request: of[SetUserQuotaRequest](), Response: of[EmptyResponse]()},

	{Name: "CreateAccessKey", Door: Admin, Quota: QuotaAdministration, Request: of[CreateAccessKeyRequest](), Response: of[CreateAccessKeyResponse]()},
	{Name: "ListAccessKeys", Door: Admin, Quota: QuotaAdministration, Request: of[ListAccessKeysRequest](), Response: of[ListAccessKeysResponse]()},
	{Name: "UpdateAccessKey", Door: Admin, Quota: QuotaAdministration, Request: of[UpdateAccessKeyRequest](), Response: of[EmptyResponse]()},
	{Name: "DeleteAccessKey", Door: Admin, Quota: QuotaAdministration, Request: of[DeleteAccessKeyRequest](), Response: of[EmptyResponse]()},

	{Name: "CreateRamPolicy", Door: Admin, Quota: QuotaAdministration, Request: of[CreateRamPolicyRequest](), Response: of[EmptyResponse]()},
	{Name: "GetRamPolicy", Door: Admin, Quota: QuotaAdministration, Request: of[RamPolicyRequest](), Response: of[GetRamPolicyResponse]()},
	{Name: "ListRamPolicies", Door: Admin, Quota: QuotaAdministration, Request: of[NoRequest](), Response: of[ListRamPoliciesResponse]()},
	{Name: "UpdateRamPolicy", Door: Admin, Quota: QuotaAdministration, Request: of[UpdateRamPolicyRequest](), Response: of[EmptyResponse]()},
	{Name: "DeleteRamPolicy", Door: Admin, Quota: QuotaAdministration, Request: of[RamPolicyRequest](), Response: of[EmptyResponse]()},
	{Name: "AttachPolicyToUser", Door: Admin, Quota: QuotaAdministration, Request: of[PolicyAttachmentRequest](), Response: of[EmptyResponse]()},
	{Name: "DetachPolicyFromUser", Door: Admin, Quota: QuotaAdministration, Request: of[PolicyAttachmentRequest](), Response: of[EmptyResponse]()},
	{Name: "SimulatePolicy", Door: Admin, Quota: QuotaAdministration, Request: of[SimulatePolicyRequest](), Response: of[SimulatePolicyResponse]()},

	{Name: "DescribeToken", Door: Admin, Quota: QuotaAdministration, Timeout: inspectTime, Request: of[NoRequest](), Response: of[DescribeTokenResponse]()},
	{Name: "ListTokenObjects", Door: Admin, Quota: QuotaAdministration, Timeout: inspectTime, Request: of[NoRequest](), Response: of[ListTokenObjectsResponse]()},
	{Name: "TestKeyVersion", Door: Admin, Quota: QuotaAdministration, Resource: "key/{KeyId}", Request: of[TestKeyVersionRequest](), Response: of[TestKeyVersionResponse]()},
	{Name: "DestroyTokenObject", Door: Admin, Quota: QuotaAdministration, Timeout: inspectTime, Request: of[DestroyTokenObjectRequest](), Response: of[EmptyResponse]()},

	{Name: "GetAuditHead", Door: Admin, Quota: QuotaAdministration, Request: of[NoRequest](), Response: of[GetAuditHeadResponse]()},

	{Name: "CreateBackup", Door: Admin, Quota: QuotaAdministration, Request: of[CreateBackupRequest]()},
}

// Unsupported are the operations that KMS has (kms-20160120 v3.2.3 and v4.1.0)
// and this gateway has not.
var Unsupported = []string{
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

// IsUnsupported reports whether KMS has an operation that this gateway has not.
func IsUnsupported(name string) bool { return slices.Contains(Unsupported, name) }
