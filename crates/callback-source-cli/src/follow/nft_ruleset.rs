//! `--print-ruleset`: an nftables ruleset that uses the follower's sets.

/// Returns a ruleset that drops all new connections to one port, except those from the addresses in two sets and those
/// over the loopback interface.
pub(crate) fn ruleset(table: &str, set: &str, intervals: bool) -> String {
    let flags = match intervals {
        true => "interval, timeout",
        false => "timeout",
    };
    RULESET
        .replace("<table>", table)
        .replace("<set>", set)
        .replace("<flags>", flags)
}

const RULESET: &str = r#"# Rules for the sets that `callback-source follow nftables:inet/<table>/<set>` fills.
# Load the file with `nft -f FILE`, and at boot before the follower starts. Loading it again keeps the elements.

add table inet <table>
add chain inet <table> callbacks { type filter hook prerouting priority dstnat - 10; policy accept; }
add chain inet <table> callers_only
flush chain inet <table> callbacks
flush chain inet <table> callers_only

table inet <table> {
	# Addresses from which callbacks may come. Each element ends with the window of its address.
	set <set> {
		type ipv4_addr
		flags <flags>
	}
	set <set>6 {
		type ipv6_addr
		flags <flags>
	}

	# The hook is before DNAT, so the rules see the published port. Ports that Docker publishes are
	# redirected by DNAT, and never pass a chain with the hook `input`. In such a chain, these rules protect
	# only servers of the host itself.
	chain callbacks {
		type filter hook prerouting priority dstnat - 10; policy accept;

		# Connections that are open are not cut.
		ct state established,related accept
		iifname "lo" accept

		# The port that receives callbacks, also for HTTP/3. Change it to yours.
		meta l4proto { tcp, udp } th dport 443 jump callers_only
	}

	chain callers_only {
		ip saddr @<set> accept
		ip6 saddr @<set>6 accept
		counter drop
	}
}
"#;
