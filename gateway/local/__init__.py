"""How the running daemon is asked, on this machine: a Unix socket in the data directory, and no network port.

    DATA/local.sock     mode 0660: who may use the daemon's files may ask; nothing can be changed through it,
                        but that the site's files are loaded again

A connection is one question and its answer, in lines of JSON (UTF-8, each ended by a line feed):

    > {"ask":"status","over":1.0}
    < {"answer":{...}}                      or {"error":"a sentence"}
    > {"ask":"explain","tag":"press-1/pressure"}
    < {"answer":{...}}
    > {"ask":"reload"}
    < {"answer":{"outcome":"applied","lines":["device press-1: changed"]}}      once its probation is over
    > {"ask":"tail","tags":["press-1/*"],"journalled":false}
    < {"table":0,"device":"press-1","group":"default","kind":"float64",
       "tags":[{"name":...,"unit":...,"states":{"1":...}},...]}
    < {"readings":0,"tag":[0,1],"value":[1.5,null],"quality":[0,2147483648],"time":[...],"backfill":false}
    < {"dropped":120}                       readings that the asker was too slow for
    ...                                     until either closes

Nothing is computed while nobody asks. The daemon never waits for an asker: who reads slowly gets less, and is told how
much less. Numbers that are none are null; times are ns since 1970, UTC; qualities are OPC UA StatusCodes.
Windows has no such sockets in this form: there the commands say so.
"""
