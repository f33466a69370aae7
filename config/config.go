package config

import "time"

// The tags of a field are the definition of its key, for the parser and for docs/configuration.md alike:
//
//	key      its name below that of the struct
//	default  as a user would write it
//	oneof    the values allowed, separated by |
//	min, max bounds of a number, size or duration
//	reload   "live": taken over at run time; absent: needs a restart
//
// The comment of a field is its text in docs/configuration.md.

// Config is the whole configuration of a node. It is a value: nothing changes it after Load.
type Config struct {
	Node      Node      `key:"node"`
	Listeners Listeners `key:"listeners"`
	TLS       TLS       `key:"tls"`
	Auth      Auth      `key:"auth"`
	Control   Control   `key:"control"`
	Journal   Journal   `key:"journal"`
	Backup    Backup    `key:"backup"`
	Tier      Tier      `key:"tier"`
	Limits    Limits    `key:"limits"`
	MQTT      MQTT      `key:"mqtt"`
	Kafka     Kafka     `key:"kafka"`
	// MQTT topics that are records of a stream: a list of `{filter: plant/+/temp, topic: temps, key: topic, deliver: key, partitions: 4}`. `key` is
	// `topic` (the full MQTT topic), `level:N` or `client`; `deliver` is `key` (records whose key is a topic that the filter matches reach MQTT's
	// subscribers under it), a template such as `plant/${key}/temp`, or `off`. The longest filter that matches takes a message. A topic that is not
	// there is made, with `kafka.partitions` partitions where the binding has no `partitions`. docs/mapping.md says what becomes of a message.
	Bindings Bindings `key:"bindings" default:"[]" reload:"live"`
	// Other MQTT brokers that messages go to and come from: a list of `{name: hq, addresses: [mqtts://broker:8883], version: 5, client_id: plant-7, user: plant,
	// password: file:/etc/sluice/hq, keep_alive: 60s, ca: ca.pem, cert: own.pem, key: own.key, insecure: false, topics: [{filter: plant/#, direction: out, qos: 2,
	// local_prefix: "", remote_prefix: site7/}]}`. `version` is `5` or `3.1.1`, `direction` is `out`, `in` or `both`, `client_id` is the name unless given, and
	// `password` can be `file:PATH` or `env:NAME`. docs/bridge.md says what is kept and what is promised.
	Bridges  Bridges  `key:"bridges" default:"[]" reload:"live"`
	Events   Events   `key:"events"`
	Engine   Engine   `key:"engine"`
	Tracing  Tracing  `key:"tracing"`
	Capacity Capacity `key:"capacity"`
	Cluster  Cluster  `key:"cluster"`
	Log      Log      `key:"log"`
}

// Node says which node this is, where it keeps its data and what it does.
type Node struct {
	// Number of this node, unique in its cluster and never given to another.
	ID int `key:"id" default:"1" min:"1" max:"65535"`
	// Directory of the journal, the checkpoints and everything else that the node keeps. It is locked while the node runs.
	Data string `key:"data" default:"./data"`
	// What the node does. `broker`: it takes clients. `journal`: it keeps a copy of the shards, and may lead. `meta`: it votes on the catalog,
	// as every node does in this version. A node that is alone does all three; of several, one without `broker` opens no listeners for clients, keeps no bridges,
	// and leads only where no other node can, and one without `journal` carries its clients to the node that leads.
	Roles []string `key:"roles" default:"[broker, journal, meta]" oneof:"broker|journal|meta"`
	// Where the node of a cluster stands, Kafka's `broker.rack`: copies of the shards are spread over racks, and by `kafka.replica_selector` consumers read in
	// their own. The node tells it at each start. Empty is what `sluice node add --rack` has said, or what it was.
	Rack string `key:"rack" default:""`
}

// Listeners are the addresses on which the node accepts connections.
type Listeners struct {
	MQTT  MQTTListeners  `key:"mqtt"`
	Kafka KafkaListeners `key:"kafka"`
	// The control plane, gRPC: what `sluice topic`, `sluice group` and their like speak. Another address than loopback needs
	// `auth.control_token` or `control.principals`, and speaks TLS once `tls.cert` is set.
	GRPC Addrs `key:"grpc" default:"127.0.0.1:1228"`
	// The other nodes of a cluster: one address. With it the node is one of a cluster, for good; without, it is alone. It speaks mutual TLS, with
	// `cluster.cert`, `cluster.key` and `cluster.ca`.
	Cluster Addrs `key:"cluster" default:"off"`
	// Metrics, `/healthz` and `/readyz`. Whoever reaches it can read the metrics: see `auth.anonymous_http`.
	HTTP Addrs `key:"http" default:"127.0.0.1:8080"`
}

// MQTTListeners are the doors for MQTT 3.1, 3.1.1 and 5.
type MQTTListeners struct {
	// Plain TCP. An address is `HOST:PORT`, port 0 is any free port, `:1883` is every address of the machine.
	TCP Addrs `key:"tcp" default:"127.0.0.1:1883"`
	// TLS over TCP; opens once `tls.cert` and `tls.key` are set.
	TLS Addrs `key:"tls" default:"[127.0.0.1:8883, 127.0.0.1:1884]"`
	// WebSocket, path `/mqtt`, subprotocol `mqtt`.
	WS Addrs `key:"ws" default:"127.0.0.1:8083"`
	// WebSocket over TLS; opens once `tls.cert` and `tls.key` are set.
	WSS Addrs `key:"wss" default:"127.0.0.1:8084"`
	// The address, `HOST:PORT`, at which clients of other nodes of a cluster are told to reach this node, where `mqtt.redirect` is on there. Empty is the first plain
	// listener, with the host of `cluster.advertised` if it listens on all addresses. An address that stands for all nodes, a load balancer's, is nothing to send clients to.
	Advertised string `key:"advertised" default:""`
	// The same for TLS.
	AdvertisedTLS string `key:"advertised_tls" default:""`
	// The same for WebSocket.
	AdvertisedWS string `key:"advertised_ws" default:""`
	// The same for WebSocket over TLS.
	AdvertisedWSS string `key:"advertised_wss" default:""`
	// Paths of unix sockets. A client on one counts as a client on loopback.
	Unix Addrs `key:"unix" default:"off"`
	// More listeners, with settings of their own: a list of `{name: plant, protocol: tls, address: 10.0.0.7:8884, anonymous: off, auth: [certificate, file], client_auth: required, tenant: plant, mountpoint: plant/,
	// connections: 1000, accept_rate: 50, proxy_protocol: false, proxy_user: off}`. `protocol` is `tcp` (the default), `tls`, `ws`, `wss` or `unix`, whose `address` is a path. `anonymous` is `off`, `loopback` or
	// `everywhere`, as in `auth.anonymous`, which counts where it is left out; so do `listeners.mqtt.connections` and `accept_rate`. `auth` names
	// who is asked about its clients, in this order and nobody else, with the words of `auth.order`; left out, all are, in that order. `client_auth` is as `tls.client_auth`. `tenant` is the tenant whose clients come there, and nobody else's; left out, it
	// is the default one's, and whoever is said to be another one's. `mountpoint` is what all
	// topics of its clients begin with, in whole levels, `%c` for the client id and `%u` for the user. With `proxy_protocol` the
	// listener gets headers of the proxies in `listeners.mqtt.proxy_trusted`; `proxy_user: cn` takes
	// the common name of a certificate that such a proxy has verified for the user. It is shown as `mqtt.NAME`. docs/mqtt.md says what a
	// reload does, and what has to be the same on all nodes of a cluster.
	Named NamedListeners `key:"named" default:"[]" reload:"live"`
	// The reactor below the listeners: `epoll` (Linux), `netpoll`, or `auto`, which picks for each listener by the figures in
	// docs/performance.md.
	Transport string `key:"transport" default:"auto" oneof:"auto|netpoll|epoll"`
	// The listeners that stand behind a load balancer which speaks the PROXY protocol, by their names in this section. Each connection
	// there has to begin with a header of it, version 1 or 2, and has the address that it tells. Needs `listeners.mqtt.proxy_trusted`.
	ProxyProtocol []string `key:"proxy_protocol" default:"off" oneof:"off|tcp|tls|ws|wss|unix"`
	// The addresses of these load balancers, `10.0.0.7` or `10.0.0.0/24`. A connection from elsewhere is closed. Whoever may connect to a
	// unix socket is trusted.
	ProxyTrusted []string `key:"proxy_trusted" default:"" reload:"live"`
	// Connections that one listener has open at once; the next ones are closed, as over `limits.connections`, which counts all of them. 0 is no
	// limit of its own.
	Connections int `key:"connections" default:"0" min:"0" reload:"live"`
	// Connections accepted in a second by one listener; the rest wait in the kernel's queue. 0 is no limit.
	AcceptRate int `key:"accept_rate" default:"0" min:"0" reload:"live"`
	// Time a client has for the TLS and WebSocket handshakes.
	HandshakeTimeout time.Duration `key:"handshake_timeout" default:"10s" min:"100ms" max:"10m"`
	// Time a client has, after the handshakes, to send its CONNECT in full.
	ConnectTimeout time.Duration `key:"connect_timeout" default:"10s" min:"100ms" max:"10m"`
}

// KafkaListeners are the doors for clients of Apache Kafka.
type KafkaListeners struct {
	// Plain TCP.
	TCP Addrs `key:"tcp" default:"127.0.0.1:9092"`
	// TLS over TCP; opens once `tls.cert` and `tls.key` are set.
	TLS Addrs `key:"tls" default:"off"`
	// The address, `HOST:PORT`, that clients are told to connect to: what they reach the first plain listener by, a load balancer or
	// another name of the machine. Empty is the address by which the client that asks has reached the node. Clients of other nodes of a
	// cluster are told this one too; empty is the first plain listener then, with the host of `cluster.advertised` if it listens on all
	// addresses.
	Advertised string `key:"advertised" default:""`
	// The same for the first TLS listener. Empty is `listeners.kafka.advertised` for those who have reached this node, and the first TLS
	// listener for clients of other nodes.
	AdvertisedTLS string `key:"advertised_tls" default:""`
	// The reactor below the listeners; see `listeners.mqtt.transport`.
	Transport string `key:"transport" default:"auto" oneof:"auto|netpoll|epoll"`
	// Connections that one listener has open at once; the next ones are closed, as over `limits.connections`, which counts all of them. 0 is no
	// limit of its own.
	Connections int `key:"connections" default:"0" min:"0" reload:"live"`
	// Connections accepted in a second by one listener; the rest wait in the kernel's queue. 0 is no limit.
	AcceptRate int `key:"accept_rate" default:"0" min:"0" reload:"live"`
	// The listeners behind a load balancer which speaks the PROXY protocol; see `listeners.mqtt.proxy_protocol`. Needs
	// `listeners.kafka.proxy_trusted`.
	ProxyProtocol []string `key:"proxy_protocol" default:"off" oneof:"off|tcp|tls"`
	// The addresses of these load balancers; see `listeners.mqtt.proxy_trusted`.
	ProxyTrusted []string `key:"proxy_trusted" default:"" reload:"live"`
}

// TLS is what the TLS and WSS listeners show and ask for. The files are read again on reload.
type TLS struct {
	// Certificate chain, PEM, the server's own first.
	Cert string `key:"cert" default:"" reload:"live"`
	// Private key of the certificate, PEM: a path, `file:PATH` or `env:NAME`.
	Key Secret `key:"key" default:"" bare:"file" reload:"live"`
	// Certificates of the authorities that sign client certificates, PEM.
	ClientCA string `key:"client_ca" default:"" reload:"live"`
	// Whether a client must show a certificate: `off` asks for none, `optional` checks one that is shown, `required` lets
	// nobody in without. Anything but `off` needs `tls.client_ca`. `auto` is `optional` when `tls.client_ca` is set.
	ClientAuth string `key:"client_auth" default:"auto" oneof:"auto|off|optional|required" reload:"live"`
	// Revoked client certificates: files with CRLs that an authority of `tls.client_ca` has signed, PEM with any number of them or DER with one.
	CRL []string `key:"crl" default:"" reload:"live"`
	// How often the files of `tls.crl`, `control.crl` and `cluster.crl` are looked at; those that have changed are read again, and who has come with a certificate
	// that is revoked by then is closed. 0: at a reload alone.
	CRLRefresh time.Duration `key:"crl_refresh" default:"1m" min:"0s" max:"24h" reload:"live"`
	// Certificates whose authority's list has expired: `refuse` lets nobody new in by them, as OpenSSL does and brokers that go by it, `accept` goes on by the list
	// as it is. Who is connected stays either way. It counts for `tls.crl` and `control.crl`; between nodes an expired list goes on to count.
	CRLExpired string `key:"crl_expired" default:"refuse" oneof:"refuse|accept" reload:"live"`
	// Whether clients that ask for it get an answer of the certificate's OCSP responder along with the certificate, so that they need not ask it. It is fetched in the
	// background, halfway through the time that the last one counts. `tls.cert` has to hold the authority's certificate as well.
	OCSPStapling bool `key:"ocsp_stapling" default:"false" reload:"live"`
	// The responder's URL. Empty: the one that the certificate names.
	OCSPResponder string `key:"ocsp_responder" default:"" reload:"live"`
	// How long before they end the log warns of certificates, each day: of those that the node shows, and of those that vouch for others. 0: never.
	ExpiryWarning time.Duration `key:"expiry_warning" default:"14d" min:"0s" reload:"live"`
	// Lowest TLS version accepted.
	MinVersion string `key:"min_version" default:"1.2" oneof:"1.2|1.3" reload:"live"`
}

// Auth says who may come in and what they may do. docs/security.md explains the files.
type Auth struct {
	// Clients without credentials: `off` refuses them, `loopback` admits those that connect over loopback or a unix socket,
	// `everywhere` admits them on every listener. `auto` is `loopback` while none of `auth.password_file`, `auth.certificate_user`,
	// `auth.jwt`, `auth.http` and `auth.ldap` is set, else `off`. `off` by name lets users of the catalog in on any address, without a password file.
	Anonymous string `key:"anonymous" default:"auto" oneof:"auto|off|loopback|everywhere" reload:"live"`
	// Who may read metrics and health over HTTP: `loopback` refuses to start with `listeners.http` on any other address.
	AnonymousHTTP string `key:"anonymous_http" default:"loopback" oneof:"loopback|everywhere"`
	// Secret by which callers of the control plane are admins (`--token`): `file:PATH`, `env:NAME` or as it is. Without one, and without
	// `control.principals`, it answers on loopback alone, where everybody is an admin then.
	ControlToken Secret `key:"control_token" default:"" reload:"live"`
	// Users and their argon2id hashes, a line each, made by `sluice passwd`.
	PasswordFile string `key:"password_file" default:"" reload:"live"`
	// Which field of a client's certificate is its user name. Anything but `off` needs `tls.client_ca`, and then a verified
	// certificate is enough to come in.
	CertificateUser string `key:"certificate_user" default:"off" oneof:"off|cn|san_dns|san_email|san_uri|subject" reload:"live"`
	// Rules that make the user name of that field, in the form of Kafka's `ssl.principal.mapping.rules`: `RULE:PATTERN/REPLACEMENT/[L|U]` and
	// `DEFAULT` with commas between them. The first whose pattern fits all of it decides; if none does, the client does not come in. Empty takes
	// the field as it is.
	CertificateMapping string `key:"certificate_mapping" default:"" reload:"live"`
	// Rules for publish and subscribe. Without a file everything is allowed to those who came in; with one, what no rule names
	// is denied. A line is about the clients of the tenant that it names, and of the default one if it names none.
	ACLFile string `key:"acl_file" default:"" reload:"live"`
	// Users of the default tenant that may do everything in it, whatever rules and ACLs say; the user of clients without credentials is `ANONYMOUS`.
	SuperUsers []string `key:"super_users" default:"" reload:"live"`
	// Forms that the client ids of MQTT clients may have: `%u` is the user, `%%` a percent sign, `*` stands for any characters. `[%u, "%u-*"]` keeps users from
	// taking over each other's sessions. Empty: every id is allowed to everybody.
	ClientIDs []string `key:"client_ids" default:"" reload:"live"`
	// Whether what no ACL is about is allowed, Kafka's `allow.everyone.if.no.acl.found`. `auto` is `true` until `auth.super_users`
	// names somebody, for all tenants. What `auth.acl_file` leaves closed stays so: topics, and with `auto` the cluster's own affairs.
	AllowEveryone string `key:"allow_everyone_if_no_acl_found" default:"auto" oneof:"auto|true|false" reload:"live"`
	// Passwords verified at once, each by one core and with the memory its hash asks for. 0 is half the cores, at least one.
	Concurrency int `key:"concurrency" default:"0" min:"0" max:"1024"`
	// Clients that may wait for their password to be verified; the next ones are told that the server is busy.
	Queue int `key:"queue" default:"4096" min:"1" max:"1000000"`
	// How long a password that was found right (or wrong, for a tenth of the time) is known without hashing it again, so that
	// a reconnect storm does not cost one argon2 each; and a token of up to 4 KiB that was good, until its own end. 0 turns it off. A reload forgets everything.
	CacheTTL time.Duration `key:"cache_ttl" default:"5m" min:"0s" max:"24h"`
	// Accept what librdkafka before 2.6.1 sends as nonce in SCRAM: its own once more before the whole one. Kafka refuses it since 3.9.
	SCRAMRepeatedNonce bool     `key:"scram_repeated_nonce" default:"false" reload:"live"`
	JWT                JWT      `key:"jwt"`
	HTTP               AuthHTTP `key:"http"`
	LDAP               AuthLDAP `key:"ldap"`
	// In which order it is asked who may know a client: its certificate, the token that its password is, the password file and the catalog (`file`), the
	// directory server, the server of `auth.http`. The first that knows the client decides, by letting it in or by refusing it. Those that are not named come
	// behind, in the order of the default.
	Order []string `key:"order" default:"[certificate, token, file, ldap, http]" oneof:"certificate|token|file|ldap|http" reload:"live"`
}

// JWT says which tokens vouch for a user: in SASL OAUTHBEARER of Kafka's clients, and in place of a password. Tokens are taken once a source of keys or a secret is set.
type JWT struct {
	// File with the public keys that tokens are signed with, a JSON Web Key Set.
	JWKSFile string `key:"jwks_file" default:"" reload:"live"`
	// Where such a set is fetched: `https`, or `http` on loopback.
	JWKSURL string `key:"jwks_url" default:"" reload:"live"`
	// How old fetched keys may get. A token with a key that is not known has them fetched earlier, every ten seconds at most; if a fetch
	// fails, the keys that there are go on to count.
	JWKSRefresh time.Duration `key:"jwks_refresh" default:"1h" min:"10s" max:"168h" reload:"live"`
	// Longest time of a fetch.
	JWKSTimeout time.Duration `key:"jwks_timeout" default:"10s" min:"100ms" max:"30s" reload:"live"`
	// Secret that is shared with who makes tokens, of 32 bytes at least: `file:PATH` or `env:NAME`. With one, tokens of HS256, HS384 and HS512 are taken, by
	// this secret alone. Whoever has it can make tokens: prefer keys.
	Secret Secret `key:"secret" default:"" reload:"live"`
	// Issuer (`iss`) that a token must have. Empty is any.
	Issuer string `key:"issuer" default:"" reload:"live"`
	// Audiences, one of which a token must have (`aud`). Empty is any.
	Audience []string `key:"audience" default:"" reload:"live"`
	// Claim that names the user.
	PrincipalClaim string `key:"principal_claim" default:"sub" reload:"live"`
	// Claims that a token must have, as `NAME=VALUE`. In a value `%c` is the client id, `%u` the user that the token names, `%%` a percent sign:
	// `device=%c` ties a token to one client id. Of a claim that is a list one entry must be the value.
	Require []string `key:"require" default:"" reload:"live"`
	// Claim with the client's own rules for publish and subscribe; docs/security.md has its form. Empty: claims give no rights.
	ACLClaim string `key:"acl_claim" default:"acl" reload:"live"`
	// Claim that names the client's tenant. A token without it leaves the client in its listener's tenant. Empty: claims name none.
	TenantClaim string `key:"tenant_claim" default:"" reload:"live"`
	// How far the clocks of who made a token and of this node may differ.
	ClockSkew time.Duration `key:"clock_skew" default:"30s" min:"0s" max:"10m" reload:"live"`
	// Algorithms of signatures that are taken.
	Algorithms []string `key:"algorithms" default:"[RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA]" oneof:"RS256|RS384|RS512|PS256|PS384|PS512|ES256|ES384|ES512|EdDSA" reload:"live"`
}

// AuthHTTP names a server that is asked about clients whose name no user of this node has. docs/security.md has what it is told and what it may answer.
type AuthHTTP struct {
	// Where the server is asked: `https`, or `http` on loopback, since passwords go there. Empty: nobody is asked.
	URL string `key:"url" default:"" reload:"live"`
	// How: `post` with a JSON object, or `get` with the same fields in the query, where servers may log them.
	Method string `key:"method" default:"post" oneof:"post|get" reload:"live"`
	// Sent as `Authorization: Bearer`: `file:PATH` or `env:NAME`.
	Token Secret `key:"token" default:"" reload:"live"`
	// Longest time of one question.
	Timeout time.Duration `key:"timeout" default:"5s" min:"10ms" max:"30s" reload:"live"`
	// Questions at once; `auth.queue` more clients may wait.
	Concurrency int `key:"concurrency" default:"32" min:"1" max:"64" reload:"live"`
	// How long an answer counts for a client that comes with exactly the same; a refusal for a tenth of it. 0 asks each time.
	CacheTTL time.Duration `key:"cache_ttl" default:"10s" min:"0s" max:"24h" reload:"live"`
	// How often the server is asked anew about clients that it has let in, spread over this time, by a quarter of `auth.http.concurrency` at once: whom it refuses then is
	// closed. The question has no password, and `recheck` is true in it: set this only for a server that knows that. No answer closes nobody. 0: never.
	Recheck time.Duration `key:"recheck" default:"0" min:"0s" reload:"live"`
}

// AuthLDAP names a directory server that is asked about clients who come with a user name and a password. docs/security.md has examples.
type AuthLDAP struct {
	// The server: `ldaps://HOST`, or `ldap://HOST` with `auth.ldap.start_tls` or on loopback, since passwords go there. Empty: nobody is asked.
	URL string `key:"url" default:"" reload:"live"`
	// Begin TLS on a connection of `ldap://`. A server that cannot is not told anything.
	StartTLS bool `key:"start_tls" default:"false" reload:"live"`
	// Authorities of the server's certificate, a PEM file. Empty: those of the system.
	CA string `key:"ca" default:"" reload:"live"`
	// Whose password is tried: a DN with `%u` for the user, such as `uid=%u,ou=people,dc=example`. Empty: the user's entry is searched for. With a DN a server does
	// not tell who is there: whoever it does not take is refused, and those behind it in `auth.order` are not asked.
	BindDN string `key:"bind_dn" default:"" reload:"live"`
	// Below which entry users are searched for.
	SearchBase string `key:"search_base" default:"" reload:"live"`
	// Which entry is a user's, with `%u` for the user. One that two entries fit is refused; who has none is left to the next ones of `auth.order`.
	SearchFilter string `key:"search_filter" default:"(uid=%u)" reload:"live"`
	// Who searches for users and groups. Empty: an anonymous client; with `auth.ldap.bind_dn` the user.
	SearchDN string `key:"search_dn" default:"" reload:"live"`
	// The password of `auth.ldap.search_dn`: `file:PATH` or `env:NAME`.
	SearchPassword Secret `key:"search_password" default:"" reload:"live"`
	// Attribute of a user's entry that is the user's name for rules, quotas and bans: directories do not care for case, and these do. Empty takes the name as the
	// client writes it.
	UserAttribute string `key:"user_attribute" default:"uid" reload:"live"`
	// Below which entry groups are searched for.
	GroupBase string `key:"group_base" default:"" reload:"live"`
	// Which groups are a user's: `%d` is the DN of the user's entry, `%u` the user.
	GroupFilter string `key:"group_filter" default:"(member=%d)" reload:"live"`
	// Attribute that names a group.
	GroupName string `key:"group_name" default:"cn" reload:"live"`
	// Groups one of which a user has to be in. Empty: every user comes in.
	Groups []string `key:"groups" default:"" reload:"live"`
	// Groups whose users come in and may do everything, whatever rules and ACLs say.
	SuperGroups []string `key:"super_groups" default:"" reload:"live"`
	// Longest time of one question, with all that it takes.
	Timeout time.Duration `key:"timeout" default:"5s" min:"10ms" max:"30s" reload:"live"`
	// Questions at once, and connections that are kept; `auth.queue` more clients may wait.
	Concurrency int `key:"concurrency" default:"32" min:"1" max:"64" reload:"live"`
	// How long a password that the server has taken counts without asking again; a refusal for a tenth of it. 0 asks each time.
	CacheTTL time.Duration `key:"cache_ttl" default:"1m" min:"0s" max:"24h" reload:"live"`
	// How often the users of clients that are in are searched for anew, and their groups, spread over this time, by a quarter of `auth.ldap.concurrency` at once: whose entry
	// is not found any more, or is in no group that lets in, is closed. No answer closes nobody. Not with `auth.ldap.bind_dn`. 0: never.
	Recheck time.Duration `key:"recheck" default:"0" min:"0s" reload:"live"`
}

// IsSet says whether tokens are taken.
func (j *JWT) IsSet() bool { return j.JWKSFile != "" || j.JWKSURL != "" || j.Secret.IsSet() }

// Control is who may call the control plane (`listeners.grpc`) beside those who know `auth.control_token`. docs/operate/control.md explains roles.
type Control struct {
	// Who else may call, and what: a list of `{name: grafana, role: viewer, token: file:/etc/sluice/grafana.token}`. `role` is `viewer`, who reads,
	// `operator`, who runs the node, or `admin`, who may everything; `token` is `file:PATH` or `env:NAME` of at least 16 bytes, which no other
	// principal has. In its place, or beside it, `certificate` is a name in the certificate that the caller shows: its common name, or one of its alternative
	// names (DNS, e-mail, URI). The log has a caller's `name`. With `tenant: NAME` the role counts within that tenant alone: the caller can do nothing with what is
	// the node's or another tenant's.
	Principals Principals `key:"principals" default:"[]" reload:"live"`
	// Certificates of the authorities that sign those of principals, PEM. Use one that signs no devices' certificates. The control plane
	// speaks TLS on other addresses than loopback, once `tls.cert` is set; what `tls.client_ca` and `tls.client_auth` say is not for it.
	ClientCA string `key:"client_ca" default:"" reload:"live"`
	// Revoked certificates of principals: files with CRLs of an authority of `control.client_ca`, as in `tls.crl`.
	CRL []string `key:"crl" default:"" reload:"live"`
	// Where the control plane answers HTTP and JSON too, below `/api/v1/` of `listeners.http`: `loopback` for callers on this machine, `everywhere` on all of its
	// addresses, where tokens cross the network in the clear, or `off`. Each call shows a token, on loopback too: `Authorization: Bearer`.
	HTTP string `key:"http" default:"loopback" oneof:"off|loopback|everywhere" reload:"live"`
	// File to which each change by the control plane is written, and each one refused: who, by which role, from where, what, what was before and what is after,
	// a JSON object a line; passwords and tokens are not in it. It is opened anew at each reload. Empty: the log alone has changes, without before and after.
	Audit string `key:"audit" default:"" reload:"live"`
	// Whether a change that cannot be written to `control.audit` is refused: then each change is written down before it is made, and again with what came of it,
	// and the node does not start without the file. Otherwise a record that cannot be written is lost, counted and warned of.
	AuditRequired bool `key:"audit_required" default:"false" reload:"live"`
}

// Journal is the durable log.
type Journal struct {
	// What an acknowledgement means: `sync` is on stable storage, `async` is in the log's memory and flushed within
	// `journal.flush_interval`, so that a power cut may take the last of it; `memory` keeps nothing over a restart, and no
	// session over its connection.
	Durability string `key:"durability" default:"sync" oneof:"sync|async|memory"`
	// Longest time that `async` leaves anything unflushed.
	FlushInterval time.Duration `key:"flush_interval" default:"5ms" min:"100us" max:"1m"`
	// Size of a log segment; existing segments keep theirs.
	SegmentSize Size `key:"segment_size" default:"256MiB" min:"1MiB" max:"4GiB"`
	// Bytes that the files of the log may have, partition segments included. Above it what must be kept is refused, as on a full disk, and what
	// makes room is taken: acknowledgements, positions, deletes, the ends of transactions. It goes on by itself once retention, or offloading to the
	// tier, has made room. At least four segments. 0 is as much as the disk has.
	MaxBytes Size `key:"max_bytes" default:"0" min:"0"`
	// Memory for the newest part of the log, from which connected sessions are fed.
	TailSize Size `key:"tail_size" default:"16MiB" min:"1MiB" max:"64GiB"`
	// Largest single write to the log.
	GroupSize Size `key:"group_size" default:"4MiB" min:"64KiB" max:"256MiB"`
	// Longest time between two checkpoints while there is anything to write.
	CheckpointInterval time.Duration `key:"checkpoint_interval" default:"10s" min:"100ms" max:"1h"`
	// Log written after which a checkpoint comes early; with the interval it bounds what a restart replays.
	CheckpointSize Size `key:"checkpoint_size" default:"256MiB" min:"1MiB" max:"1GiB"`
}

// Backup is where `sluice backup` takes the node's state, while it runs. docs/operate/backup.md explains it.
type Backup struct {
	// Store of backups, its kind and its settings: `local:dir=/var/backups/sluice`, `s3:endpoint=https://minio:9000,bucket=vault,prefix=node1`,
	// `hdfs:name_nodes=nn1:8020,dir=/backups`; docs/tiers.md lists the settings. `access_key` may be, and `secret_key` and `session_token` have to be, `env:NAME` or
	// `file:PATH`. Empty: the node takes no backups.
	Store string `key:"store" default:"" reload:"live"`
	// Bytes a second that a backup reads and sends at most. 0 is no bound.
	Rate Size `key:"rate" default:"64MiB" min:"0" reload:"live"`
}

// Tier is where the log's history goes, and comes back from. Which topics go there is a setting of each, `tier.policy`: docs/tiers.md.
type Tier struct {
	// The store: `local` is a directory, `s3` a bucket of anything that speaks S3, `hdfs` a directory of HDFS. With `off` no topic may
	// have a `tier.policy`, and a node whose history lies in a store does not start.
	Store string `key:"store" default:"off" oneof:"off|local|s3|hdfs"`
	// The store's own settings, a map: `{dir: /mnt/history}` for `local`; docs/tiers.md lists them. Single ones can be given as `--set
	// tier.settings.dir=/mnt/history` and `SLUICE_TIER_SETTINGS_DIR`. Each value can be `file:PATH` or `env:NAME`; no output shows secrets.
	Settings Settings `key:"settings" default:"{}"`
	// Bytes in a second that uploads take at most. 0 is no limit.
	UploadRate Size `key:"upload_rate" default:"0" min:"0"`
	// Memory for blocks of the store that were read, shared by all readers.
	Cache Size `key:"cache" default:"64MiB" min:"1MiB" max:"64GiB"`
	// Memory for the layout of the object that is being uploaded. A store's buffers are beside it: `part_bytes` times `buffers` for `s3`.
	Memory Size `key:"memory" default:"16MiB" min:"1MiB" max:"1GiB"`
	// About how large an object is where there is enough to upload.
	ObjectSize Size `key:"object_size" default:"64MiB" min:"64KiB" max:"1GiB"`
	// Less than this is not uploaded before `tier.max_lag`: each object costs a request.
	MinObjectSize Size `key:"min_object_size" default:"8MiB" min:"4KiB" max:"1GiB"`
	// Longest time that what is due waits for more, to be uploaded together with it.
	MaxLag time.Duration `key:"max_lag" default:"10m" min:"1s" max:"24h"`
	// How often the node looks for what is due.
	Interval time.Duration `key:"interval" default:"5s" min:"100ms" max:"1h"`
	// Age at which an object that nothing knows of, left by a crash, is removed. It must be longer than an upload takes.
	OrphanGrace time.Duration `key:"orphan_grace" default:"24h" min:"10m" max:"720h"`
	// Time between an object's end in the catalog and its end in the store: readers that have begun can finish.
	DeleteDelay time.Duration `key:"delete_delay" default:"10m" min:"1s" max:"720h"`
}

// Limits bound what clients can take. A full limit is an answer with a reason, counted in the metrics.
type Limits struct {
	// Memory that the process may use. `0` is its soft limit: GOMEMLIMIT, or 75 % of what the machine or control group has. At
	// 80 % a slow client may have an eighth of `limits.queue_bytes` wait for it, at 95 % CONNECT is refused.
	Memory Size `key:"memory" default:"0" min:"0" reload:"live"`
	// Connections of the node. 0 is as many as file descriptors allow.
	Connections int `key:"connections" default:"0" min:"0" reload:"live"`
	// Largest MQTT packet accepted, header included. The protocol's own bound is 256 MiB.
	PacketSize Size `key:"packet_size" default:"1MiB" min:"1KiB" max:"268435460" reload:"live"`
	// Bytes that wait in memory for one slow connection. Beyond it QoS 0 is dropped and counted, and `limits.on_full` decides
	// about a session without expiry.
	QueueBytes Size `key:"queue_bytes" default:"1MiB" min:"4KiB" reload:"live"`
	// What happens at `limits.queue_bytes` to a session without expiry that waits for QoS 1 or 2: `disconnect` ends it with
	// *quota exceeded*, `drop` drops the newest message and counts it.
	OnFull string `key:"on_full" default:"disconnect" oneof:"disconnect|drop" reload:"live"`
	// Messages at QoS 1 and 2 sent to one client and not yet acknowledged; a client's own receive maximum counts if lower.
	Inflight int `key:"inflight" default:"1024" min:"1" max:"65535" reload:"live"`
	// Messages that wait for one absent or slow session; the oldest go first, and it is looked at every second. 0 is no limit.
	SessionMessages int `key:"session_messages" default:"1000000" min:"0" reload:"live"`
	// Bytes that wait for one absent or slow session; the oldest go first, and it is looked at every second. 0 is no limit.
	SessionBytes Size `key:"session_bytes" default:"1GiB" min:"0" reload:"live"`
	// Age at which a waiting message is dropped. 0 is never, beside its own expiry.
	SessionAge time.Duration `key:"session_age" default:"0s" min:"0s" reload:"live"`
	// Sessions that the node keeps, connected or not. 0 is no limit.
	Sessions int `key:"sessions" default:"0" min:"0" reload:"live"`
	// Subscriptions of one session. 0 is no limit.
	Subscriptions int `key:"subscriptions" default:"0" min:"0" reload:"live"`
	// Levels of a topic name or filter.
	TopicLevels int `key:"topic_levels" default:"128" min:"1" max:"32768" reload:"live"`
	// Bytes of a topic name or filter.
	TopicBytes Size `key:"topic_bytes" default:"65535" min:"1" max:"65535" reload:"live"`
	// Bytes of a client identifier.
	ClientIDBytes Size `key:"client_id_bytes" default:"65535" min:"23" max:"65535" reload:"live"`
	// Retained messages that clients may leave on the node. 0 is no limit.
	RetainedMessages int `key:"retained_messages" default:"0" min:"0" reload:"live"`
	// Messages that wait for their time (`$delayed/SECONDS/TOPIC`), of all clients. They are held in memory. 0 is no limit.
	DelayedMessages int `key:"delayed_messages" default:"100000" min:"0" reload:"live"`
	// The same of one client id. 0 is no limit.
	DelayedClientMessages int `key:"delayed_client_messages" default:"1000" min:"0" reload:"live"`
	// Bytes of them, of all clients. 0 is no limit.
	DelayedBytes Size     `key:"delayed_bytes" default:"256MiB" min:"0" reload:"live"`
	Flapping     Flapping `key:"flapping"`
}

// Flapping bans for a while who connects too often: on this node, until its next start.
type Flapping struct {
	// Connections of a client id of MQTT within `limits.flapping.window` that are let in; with the next one the client id is banned. 0 is no limit.
	Connects int `key:"connects" default:"0" min:"0" max:"1000000" reload:"live"`
	// Connections of an address, or of the /64 of an IPv6 address, within the window, whatever becomes of them; with the next one it is banned, for every protocol. Many
	// clients may share one. 0 is no limit.
	AddressConnects int `key:"address_connects" default:"0" min:"0" max:"1000000" reload:"live"`
	// Time in which connections are counted. It begins with the first of them.
	Window time.Duration `key:"window" default:"1m" min:"1s" max:"1h" reload:"live"`
	// How long a ban lasts.
	Ban time.Duration `key:"ban" default:"5m" min:"1s" max:"24h" reload:"live"`
}

// MQTT is what the node offers to MQTT clients.
type MQTT struct {
	// Highest quality of service granted.
	MaxQoS int `key:"max_qos" default:"2" min:"0" max:"2" reload:"live"`
	// Whether messages can be retained.
	Retain bool `key:"retain" default:"true" reload:"live"`
	// Whether filters may hold `+` and `#`.
	Wildcard bool `key:"wildcard" default:"true" reload:"live"`
	// Whether subscriptions may carry an identifier.
	SubscriptionIDs bool `key:"subscription_ids" default:"true" reload:"live"`
	// Whether `$share/GROUP/FILTER` is offered.
	Shared bool `key:"shared" default:"true" reload:"live"`
	// Whether `$exclusive/FILTER` is offered: a filter that one session at a time is subscribed to in this way. Off, such a filter is refused with 0x8F.
	ExclusiveSubscription bool `key:"exclusive_subscription" default:"false" reload:"live"`
	// Whether `$delayed/SECONDS/TOPIC` is offered: a message that is published to TOPIC after that time. Off, such a topic is refused with 0x90.
	Delayed bool `key:"delayed" default:"true" reload:"live"`
	// Longest delay that such a message may ask for; a longer one is refused with 0x97.
	DelayedMax time.Duration `key:"delayed_max" default:"4294967s" min:"1s" max:"4294967s" reload:"live"`
	// Wills that the node publishes in a second when many connections end together; the others wait for their turn. 0 is no limit.
	WillRate int `key:"will_rate" default:"5000" min:"0" max:"1000000" reload:"live"`
	// Topics in the place of those that clients name, a list of rules such as `{action: all, from: x/+/y/#, to: z/$1/$2}` with action `publish`, `subscribe` or `all`. The
	// first that matches counts: docs/mqtt.md.
	Rewrite Rewrites `key:"rewrite" default:"[]" reload:"live"`
	// Subscriptions that every new session begins with, a list such as `{topic: devices/%c/commands, qos: 1}`, where `%c` is the client identifier and `%u` the user; `no_local`,
	// `retain_as_published` and `retain_handling` are MQTT 5's options: docs/mqtt.md.
	AutoSubscribe AutoSubscriptions `key:"auto_subscribe" default:"[]" reload:"live"`
	// User properties that are set or removed in what clients publish, a list of rules such as `{topic: sensors/#, set: {client: "%c"}, remove: [name]}`, where `%c` is the client
	// identifier, `%u` the user and `%t` the topic: docs/mqtt.md.
	UserProperties PropertyRules `key:"user_properties" default:"[]" reload:"live"`
	// Which member of a shared subscription gets a message: `round_robin`, `sticky` (one until it leaves), `hash_topic`,
	// `hash_client` (of the publisher), `least_inflight`.
	SharedStrategy string `key:"shared_strategy" default:"round_robin" oneof:"round_robin|sticky|hash_topic|hash_client|least_inflight" reload:"live"`
	// Longest session expiry granted; a longer wish is shortened and the client told. `never` grants any.
	SessionExpiryMax time.Duration `key:"session_expiry_max" default:"never" min:"0s" reload:"live"`
	// Expiry of sessions of MQTT 3.1 and 3.1.1 clients with clean session 0. `never` keeps them until limits.* say otherwise.
	SessionExpiryV3 time.Duration `key:"session_expiry_v3" default:"never" min:"0s" reload:"live"`
	// Longest keep-alive granted to MQTT 5 clients, told as server keep-alive; it replaces 0 too. `0s` leaves the client's own.
	KeepAliveMax time.Duration `key:"keep_alive_max" default:"0s" min:"0s" max:"65535s" reload:"live"`
	// Messages at QoS 1 and 2 that a client may send before the first is acknowledged.
	ReceiveMaximum int `key:"receive_maximum" default:"1024" min:"1" max:"65535" reload:"live"`
	// Topic aliases that a client may use towards the server.
	TopicAliasMaximum int `key:"topic_alias_maximum" default:"64" min:"0" max:"65535" reload:"live"`
	// Topic aliases that the server uses towards a client that offers them.
	TopicAliasOut int `key:"topic_alias_out" default:"16" min:"0" max:"65535" reload:"live"`
	// Prefix given to clients that ask for response information; `%c` is the client identifier. Empty gives none.
	ResponseInformation string `key:"response_information" default:"" reload:"live"`
	// Other servers, named to clients when this one drains, with *use another server*; MQTT 5. Empty names none.
	ServerReference string `key:"server_reference" default:"" reload:"live"`
	// In a cluster, what a node that does not lead does with MQTT 5 clients: `off` carries them to the one that leads, as all others; `connect` sends them there, with
	// *use another server* in CONNACK and the address that the leader has for the same kind of listener (`listeners.mqtt.advertised`), and likewise in DISCONNECT when it hands
	// the lead over.
	Redirect string `key:"redirect" default:"off" oneof:"off|connect"`
	// Whether payloads that are declared as UTF-8 are checked.
	ValidatePayloadFormat bool `key:"validate_payload_format" default:"false" reload:"live"`
	// Whether what becomes of MQTT 5 messages with a user property `trace` is remembered, in a bounded ring, for `sluice explain --message`.
	TraceProperty bool `key:"trace_property" default:"false" reload:"live"`
	// How many MQTT topics have metrics of their own, `sluice_mqtt_topic_*`: those that most messages come and go by. 0 counts none.
	TopicMetrics    int             `key:"topic_metrics" default:"0" min:"0" max:"200" reload:"live"`
	SlowSubscribers SlowSubscribers `key:"slow_subscribers"`
	// How often `$SYS` topics are published. `0s` publishes none.
	SysInterval time.Duration `key:"sys_interval" default:"10s" min:"0s" max:"24h" reload:"live"`
}

// SlowSubscribers says which MQTT clients `sluice explain --slow` and `sluice_mqtt_slow_*` show; docs/operate/events.md has what is measured.
type SlowSubscribers struct {
	// How long after its publish a message of QoS 1 or 2 may be acknowledged before it is late. `0s` looks at none.
	Threshold time.Duration `key:"threshold" default:"0s" min:"0s" max:"24h" reload:"live"`
	// How long a client that was late is shown after that.
	Window time.Duration `key:"window" default:"5m" min:"1s" max:"24h" reload:"live"`
	// How many clients are shown, those that were late by most.
	Top int `key:"top" default:"10" min:"1" max:"100" reload:"live"`
}

// Kafka is what the node offers to clients of Apache Kafka.
type Kafka struct {
	// Whether a topic that a client names and that does not exist is created.
	AutoCreateTopics bool `key:"auto_create_topics" default:"true" reload:"live"`
	// Partitions of a topic that is created without a number.
	Partitions int `key:"partitions" default:"1" min:"1" max:"10000" reload:"live"`
	// Largest request accepted. Batches have a bound of their own, `max.message.bytes` of their topic.
	RequestSize Size `key:"request_size" default:"100MiB" min:"1KiB" max:"256MiB" reload:"live"`
	// Largest answer to a fetch, whatever the client asks for; one batch may be larger.
	FetchSize Size `key:"fetch_size" default:"55MiB" min:"1KiB" max:"1GiB" reload:"live"`
	// Time after which a connection without a request is closed.
	IdleTimeout time.Duration `key:"idle_timeout" default:"10m" min:"1s" max:"24h" reload:"live"`
	// SASL mechanisms that are offered; OAUTHBEARER once `auth.jwt` is set.
	SASLMechanisms []string `key:"sasl_mechanisms" default:"[PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER]" oneof:"PLAIN|SCRAM-SHA-256|SCRAM-SHA-512|OAUTHBEARER" reload:"live"`
	// From whom consumers read in a cluster, Kafka's `replica.selector.class`: `leader`, or `rack`: who says in which rack it is (`client.rack`) reads from the
	// in-sync replica there (KIP-392). Off as in Kafka: a follower has a record some milliseconds after the leader. The same on all nodes, once all have a
	// program that knows it.
	ReplicaSelector string `key:"replica_selector" default:"leader" oneof:"leader|rack" reload:"live"`
	// How long a client that came in by SASL may go on before it says anew who it is (KIP-368); Kafka's `connections.max.reauth.ms`. A
	// connection that goes on longer is closed. 0 is no limit.
	SessionLifetime time.Duration `key:"session_lifetime" default:"0s" min:"0s" max:"720h" reload:"live"`
	// How often each partition is looked at: records whose retention is over, compaction, producers that are silent.
	CheckInterval time.Duration `key:"check_interval" default:"30s" min:"1s" max:"1h" reload:"live"`
	// How long a partition knows an idempotent producer that is silent.
	ProducerExpiry time.Duration `key:"producer_expiry" default:"24h" min:"1m" max:"720h" reload:"live"`
}

// Events is what is told of clients, sessions and subscriptions of MQTT; docs/operate/events.md has what they look like.
type Events struct {
	// Which events are told: `client` and `session` are all of one kind, or one by one as they are listed.
	Kinds []string `key:"kinds" default:"off" oneof:"off|client|client.connected|client.disconnected|session|session.created|session.resumed|session.ended|session.discarded|session.taken_over|session.subscribed|session.unsubscribed" reload:"live"`
	// Whether they are messages on the MQTT topics `$SYS/broker/events/client/connected` and so on, which whoever may subscribe there can read.
	MQTT bool `key:"mqtt" default:"true" reload:"live"`
	// Topic in which they are records, keyed by client identifier, for Kafka's clients: `_sluice.events`, say. It is made if it is not there. Empty: none.
	KafkaTopic string `key:"kafka_topic" default:"" reload:"live"`
}

// Tracing is what a collector of OpenTelemetry is told of messages; docs/operate/tracing.md explains it.
type Tracing struct {
	// Where spans go, by OTLP over gRPC: `http://HOST:4317`, or `https://HOST:4317` with TLS. Empty: nothing is traced, and tracing costs nothing.
	Endpoint string `key:"endpoint" default:"" reload:"live"`
	// What is sent along with each call, `authorization=Bearer%20x,tenant=7`, as `OTEL_EXPORTER_OTLP_HEADERS` has it: `file:PATH`, `env:NAME` or as it is. Needs TLS, or a
	// collector on loopback.
	Headers Secret `key:"headers" default:"" reload:"live"`
	// Certificates of the authorities that may vouch for the collector, PEM. Empty: the system's.
	CA string `key:"ca" default:"" reload:"live"`
	// Which part of the messages that come without a `traceparent` is traced. Of the others those are that their publisher says are sampled.
	SampleRatio float64 `key:"sample_ratio" default:"0.01" min:"0" max:"1" reload:"live"`
	// Messages that are traced in a second, of those that come without a `traceparent` and as many of those that come with one, and ten times as many deliveries.
	MaxPerSecond int `key:"max_per_second" default:"100" min:"1" max:"100000" reload:"live"`
	// Spans that have not ended, or wait for the collector; when there are so many, others are not begun, and counted. Each takes 1.5 KiB at most.
	Queue int `key:"queue" default:"4096" min:"1" max:"1000000" reload:"live"`
	// Longest time of one call.
	Timeout time.Duration `key:"timeout" default:"10s" min:"100ms" max:"5m" reload:"live"`
	// The name of the service that the spans are of, `service.name`. `service.instance.id` is `node.id`.
	ServiceName string `key:"service_name" default:"sluice" reload:"live"`
}

// Engine is the reactor.
type Engine struct {
	// Loops, each of which owns its connections. 0 is one for each core.
	Loops int `key:"loops" default:"0" min:"0" max:"1024"`
}

// Cluster is what all nodes of a cluster agree on.
type Cluster struct {
	// Shards of sessions and topics. Fixed at the first start and stored with the data: another value is refused then.
	Shards int `key:"shards" default:"64" min:"1" max:"4096"`
	// Addresses of nodes of the cluster, `HOST:PORT` of their `listeners.cluster`, one of which lets this node join once `sluice node add` has been
	// run there. Used until it has joined. Empty: the node forms a cluster of its own, and users, rules, quotas and bindings that it has go into it.
	Peers []string `key:"peers" default:""`
	// Where the other nodes reach this one, `HOST:PORT`; it may change. Empty: the address of `listeners.cluster`, if that is one of this machine alone.
	Advertised string `key:"advertised" default:""`
	// Certificate of this node for the other ones, a PEM file: for servers and for clients, with the host of `cluster.advertised` as a name.
	Cert string `key:"cert" default:""`
	// Private key of `cluster.cert`, a PEM file.
	Key string `key:"key" default:""`
	// The authorities that the certificates of all nodes come from, a PEM file. Use one that signs for nothing else: who has a certificate of it is a node.
	CA string `key:"ca" default:""`
	// Revoked certificates of nodes: files with CRLs of an authority of `cluster.ca`, as in `tls.crl`. `sluice cert revoke` makes one.
	CRL []string `key:"crl" default:""`
	// Secret of the cluster, the same on all nodes: `file:PATH` or `env:NAME`. A node that does not know it is refused. Where nodes speak TLS their certificates
	// say enough; without TLS it is what keeps strangers out, and on anything but loopback it has to be set.
	Token Secret `key:"token" default:""`
	// Whether nodes may speak without TLS over a network, where others can read all of it. On loopback they may.
	Plaintext bool `key:"plaintext" default:"false"`
	// How many nodes keep each shard, the one that leads included. What is acknowledged lies on the majority of them.
	Replicas int `key:"replicas" default:"3" min:"1" max:"15"`
	// How long a node may lead after it was heard by the majority. When the one that leads is lost, another one leads soon after this; a machine that stands still for
	// longer loses the lead. The same on all nodes.
	Lease time.Duration `key:"lease" default:"1250ms" min:"100ms" max:"1m"`
	// How long a node that follows may lack something before acknowledgements do not wait for it any more.
	ReplicaLag time.Duration `key:"replica_lag" default:"10s" min:"1s" max:"10m"`
	// How many bytes a second the node that leads gives to all nodes together that are not in sync: what they catch up with, and copies for them, the reading of
	// what is copied as well. At least 64KiB; it has to be above what clients write, or nobody comes along. Who is in sync is never held up by it, and nobody is
	// while too few are for anything to be acknowledged. `sluice shard status` shows how far they are. 0: as fast as it goes.
	CatchupRate Size `key:"catchup_rate" default:"0" min:"0" reload:"live"`
}

// Capacity is how the node compares itself to a model of what it should cost.
type Capacity struct {
	// Model of `sluice plan fit`, a file. With it the metrics say what CPU time the model gives for what the node has done, the
	// head-room, and how far the node has drifted from the model: docs/capacity.md. Empty compares nothing.
	Model string `key:"model" default:""`
}

// Log is what the node writes to standard error.
type Log struct {
	// Least level that is written.
	Level string `key:"level" default:"info" oneof:"debug|info|warn|error" reload:"live"`
	// One line of `key=value` or one JSON object for each record.
	Format string `key:"format" default:"text" oneof:"text|json"`
}
