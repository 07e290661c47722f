"""The production scheduler, driver and committer on machines that exist in memory alone.

One integer seed is one schedule: which disk, which hosts, what breaks and when. No clock of this
machine, no chance but the seed's, no sleep. Knows nothing of models: their answers are a pure
function of the row. See __main__ for the command.
"""
