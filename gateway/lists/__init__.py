"""Register lists: what manufacturers and other gateways write about a device, turned into YAML, and back.

sheets      a spreadsheet or CSV file as rows of text that know their place
headings    which column is what, in Chinese and English
words       types, byte orders, factors and rights, in their many spellings
addresses   the ways people write a Modbus address
rows        all of that together: from rows to tags
telegraf neuron kepware    the configurations of other gateways
reading     any of these files to a RegisterList; sites writes it into YAML, export the other way
start       a first site file

A tool of the integrator's laptop: the edge daemon never imports it. openpyxl and ruamel.yaml come with the extra
`tools`.
Nothing is guessed in silence: what could mean two things is told, and an option decides it.
"""
