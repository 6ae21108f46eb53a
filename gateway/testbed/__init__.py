"""The testbed: a whole path is run, things go wrong to a plan, and what arrived is compared with what was shown.

    scenario      the YAML file: site, duration, faults, network, which requirements are expected
    processes     simulators, broker, edge daemon, ingest and store as processes; also the demonstration's
    truth         what each simulated tag showed at each moment, faults included
    arrivals      what is in the store, or came over MQTT: rows per tag
    requirements  statements with an id, and what decides each from truth and arrivals; docs/conformance/requirements.md
    account       the demonstration's account: the same comparison, and the journal's totals
    watch         another gateway's MQTT output as arrivals
    report        findings as Markdown and HTML

Nothing of it trusts the gateway's counters. Only PB-DATA-01, which is about the journal's promise, reads the journal's
totals, from its file.
"""
