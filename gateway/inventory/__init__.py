"""What of a plant is connected, and how complete its data are: from site files, and from what is stored. See `report`.

    rate       always a numerator and a denominator with their names, never a quotient alone
    configured what the files say: devices listed as connected, of those listed
    measured   what the store has: devices with good data in the window, of those listed. The two are never mixed
    listed     every device of the files but the auxiliary; what is stored of others does not count
    instant    one scan instant of one tag: the unit of completeness, since with report by exception a missing row may
               mean that nothing changed

An instant is *good* (or *uncertain*) where the newest row before the end of its slot is, and still holds; *bad* where
that row is Bad; a *gap* where the gateway declared that it has nothing; *unknown* where the store cannot tell. How long
a row holds follows from the gateway's rules (gateway.stages.report, gateway.poller): one and a half intervals and the
time that the device may take, where every reading is reported; a further `max_silence` where that is given; else until
a Bad row, a gap or another value. Nothing holds beyond the newest sign of its gateway, nor over a gap in which journal
records were lost.
"""
