"""Result files of pytest and its plugins, read as untrusted text: values out, or what is wrong with them."""
