"""Which cases there are: tables, folder layouts, descriptions of public sets, splits by patient."""
